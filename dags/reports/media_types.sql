-- How many posts have which kind of media, and their share in percent. Posts that do not say are a group of their own (null).
with chosen as (
  select is_image_or_video as media
  from pins
  where coalesce(follower_count, 0) >= $min_followers
)
select
  by_media.media,
  by_media.posts,
  round(by_media.posts * 100.0 / whole.all_posts, 1) as percent
from (select media, count(*) as posts from chosen group by media) as by_media
cross join (select count(*) as all_posts from chosen) as whole
order by posts desc, media nulls last
