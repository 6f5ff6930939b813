-- Where the user with the most followers of all posts from; several rows when several users or countries tie.
select country, user_id, first_name, last_name, poster, followers
from followed
where followers in (select max(followers) from followed)
order by country, user_id nulls last, poster nulls last
