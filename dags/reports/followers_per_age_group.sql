-- Users per age group and the median of their followers. Each user counts once. Medians interpolate: between two middle values stands their
-- mean. Users whose followers are unknown do not enter the median; `counted` is how many do.
select age_group, count(*) as users, count(followers) as counted, median(followers) as median_followers
from people
group by age_group, age_rank
order by age_rank
