-- The category with the most posts in each country; categories with as many posts stand side by side.
-- Posts whose country is unknown are left out.
with counted as (
  select country, category, count(*) as posts
  from posts
  where country is not null
  group by country, category
)
select country, category, posts
from counted
qualify posts = max(posts) over (partition by country)
order by country, category nulls last
