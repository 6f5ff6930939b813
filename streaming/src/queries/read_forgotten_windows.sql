-- Reads the windows that a stream has counted and whose names its file does not have any more. Takes no lock; walks from name to
-- name through the key.
with recursive name as (
    (
        select pane.window_name from window_count as pane where pane.stream = $1 order by pane.window_name limit 1
    )
    union all
    select (
        select pane.window_name
        from window_count as pane
        where pane.stream = $1 and pane.window_name > name.window_name
        order by pane.window_name
        limit 1
    )
    from name
    where name.window_name is not null
)
select name.window_name
from name
where name.window_name is not null
    and not exists (select from stream_window as spec where spec.stream = $1 and spec.window_name = name.window_name)
