-- How many posts each category has, and how many followers their posters have in the middle.
-- Medians interpolate: between two middle values stands their mean. Posts whose count is unknown do not enter the median.
-- Categories with as many posts are in the order of their names.
select
  category,
  count(*) as posts,
  median(follower_count) as median_followers
from pins
where coalesce(follower_count, 0) >= $min_followers
group by category
order by posts desc, category
