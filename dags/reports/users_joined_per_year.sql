-- How many users joined in each year from $first_join_year to $last_join_year (UTC).
select join_year, count(*) as users
from people
where join_year between $first_join_year and $last_join_year
group by join_year
order by join_year
