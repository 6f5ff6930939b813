-- The user with the most followers in each country; users with as many stand side by side. Countries and counts that are unknown are left
-- out. `poster` is the name on the post where the user has no account.
select country, user_id, first_name, last_name, poster, followers
from followed
qualify followers = max(followers) over (partition by country)
order by country, user_id nulls last, poster nulls last
