-- What the other answers rest on: how many posts and users there are, and for how many of them each fact is known.
select what, number
from (
  select 1 as line, 'posts' as what, count(*) as number from posts
  union all select 2 as line, 'posts with a place' as what, count(place_ind) as number from posts
  union all select 3 as line, 'posts with a country' as what, count(country) as number from posts
  union all select 4 as line, 'posts with a year' as what, count(post_year) as number from posts
  union all select 5 as line, 'posts with a user' as what, count(user_id) as number from posts
  union all select 6 as line, 'posts with followers' as what, count(follower_count) as number from posts
  union all select 7 as line, 'users' as what, count(*) as number from people
  union all select 8 as line, 'users with followers' as what, count(followers) as number from people
) as counted
order by line
