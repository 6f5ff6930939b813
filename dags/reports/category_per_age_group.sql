-- The category with the most posts in each age group of the posters; ties stand side by side.
-- Under 18 and unknown are groups of their own; a post without a user is of unknown age. 36-50 includes 50.
with counted as (
  select age_group, age_rank, category, count(*) as posts
  from posts
  group by age_group, age_rank, category
)
select age_group, category, posts
from counted
qualify posts = max(posts) over (partition by age_group)
order by age_rank, category nulls last
