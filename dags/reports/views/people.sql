-- People: one row per user, with the highest number of followers that any post of theirs shows; null when none shows one.
select person.user_id, person.age_group, person.age_rank, person.join_year, followed.followers
from (select distinct user_id, age_group, age_rank, join_year from accounts) as person
left join (
  select user_id, max(follower_count) as followers
  from posts
  where user_id is not null
  group by user_id
) as followed on person.user_id = followed.user_id
