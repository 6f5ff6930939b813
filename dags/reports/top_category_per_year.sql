-- The category with the most posts of each year from $first_post_year to $last_post_year; ties stand side by side.
with counted as (
  select post_year, category, count(*) as posts
  from posts
  where post_year between $first_post_year and $last_post_year
  group by post_year, category
)
select post_year, category, posts
from counted
qualify posts = max(posts) over (partition by post_year)
order by post_year, category nulls last
