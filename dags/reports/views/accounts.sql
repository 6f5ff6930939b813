-- Accounts: the user behind each row of the original table, one row per `ind`, in its latest version.
-- One person may stand behind many rows: the same names, age and moment of joining are one user, and `user_id` is the smallest `ind` of that
-- user. Where a name or the moment is missing nobody can tell people apart, and every row is a user of its own.
-- An age of 50 belongs to 36-50; 50+ begins with 51. Ages that are missing or negative are `unknown`.
with
  versions as (
    select
      ind, first_name, last_name, date_joined, case when age >= 0 then age end as age,
      row_number() over (partition by ind order by _offset desc, _partition desc) as version
    from users
  ),
  latest as (select * from versions where version = 1)
select
  ind,
  case
    when first_name is null or last_name is null or date_joined is null then ind
    else min(ind) over (partition by first_name, last_name, age, date_joined)
  end as user_id,
  first_name,
  last_name,
  case
    when age < 18 then 'under 18'
    when age <= 24 then '18-24'
    when age <= 35 then '25-35'
    when age <= 50 then '36-50'
    when age > 50 then '50+'
    else 'unknown'
  end as age_group,
  case when age < 18 then 0 when age <= 24 then 1 when age <= 35 then 2 when age <= 50 then 3 when age > 50 then 4 else 5 end as age_rank,
  extract(year from date_joined) as join_year
from latest
