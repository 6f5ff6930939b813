-- Users by the year they joined in, and the median of their followers. Each user counts once, an unknown year is a group of its own (null).
-- Medians interpolate; users whose followers are unknown do not enter them, and `counted` is how many do.
select join_year, count(*) as users, count(followers) as counted, median(followers) as median_followers
from people
group by join_year
order by join_year nulls last
