-- Followed: for each country and user who posted there, the highest number of followers that their posts there show.
-- Who has no account is told apart by the name on the post alone.
select country, user_id, first_name, last_name, poster, max(follower_count) as followers
from (
  select country, user_id, first_name, last_name, case when user_id is null then poster_name end as poster, follower_count
  from posts
  where country is not null and follower_count is not null
) as known
group by country, user_id, first_name, last_name, poster
