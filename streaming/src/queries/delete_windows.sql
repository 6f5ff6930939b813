-- Deletes at most $5 panes of a window whose last window ended more than $4 seconds before what the stream has passed; $3 is the
-- window's length in seconds. Locks these rows, and none that somebody else holds.
delete from window_count as pane
using (
    select old.window_start, old.group_key
    from window_count as old
    where old.stream = $1
        and old.window_name = $2
        and old.window_start < (select passed.watermark from stream_watermark as passed where passed.stream = $1 and passed.topic = $6)
            - make_interval(secs => $3) - make_interval(secs => $4)
    order by old.window_start, old.group_key
    limit $5
    for update skip locked
) as gone
where pane.stream = $1
    and pane.window_name = $2
    and pane.window_start = gone.window_start
    and pane.group_key = gone.group_key
