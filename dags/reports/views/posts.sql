-- Posts: one row per `unique_id` in its latest version, with the place and the user of its `index`. Both are joined one to one, so that no
-- post is counted twice; a post without a place or without a user stays, with nulls.
with
  post_versions as (
    select
      unique_id, "index" as ind, category, follower_count, poster_name,
      row_number() over (partition by unique_id order by _offset desc, _partition desc) as version
    from pins
  ),
  post as (select * from post_versions where version = 1),
  place_versions as (
    select
      ind, country, extract(year from "timestamp") as post_year,
      row_number() over (partition by ind order by _offset desc, _partition desc) as version
    from geo
  ),
  place as (select * from place_versions where version = 1)
select
  post.unique_id,
  post.ind,
  post.category,
  post.follower_count,
  post.poster_name,
  place.ind as place_ind,
  place.country,
  place.post_year,
  accounts.user_id,
  accounts.first_name,
  accounts.last_name,
  coalesce(accounts.age_group, 'unknown') as age_group,
  coalesce(accounts.age_rank, 5) as age_rank
from post
left join place on post.ind = place.ind
left join accounts on post.ind = accounts.ind
