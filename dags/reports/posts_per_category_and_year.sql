-- How many posts each category has in each year from $first_post_year to $last_post_year, by the time of the post (UTC).
select post_year, category, count(*) as posts
from posts
where post_year between $first_post_year and $last_post_year
group by post_year, category
order by post_year, posts desc, category nulls last
