-- Reads the newest windows of event time of a stream, $2 of each name. Takes no lock, and sums only the panes of these.
with newest as (
    select spec.window_name, spec.length_s, spec.slide_s, last_pane.window_start as last_start
    from live.stream_window as spec
    cross join lateral (
        select pane.window_start
        from live.window_count as pane
        where pane.stream = spec.stream and pane.window_name = spec.window_name
        order by pane.window_start desc
        limit 1
    ) as last_pane
    where spec.stream = $1 and spec.length_s is not null
),
counted as (
    select newest.window_name, newest.length_s, of_window.window_start, pane.group_key,
        sum(pane.events)::bigint as events,
        sum(pane.dead)::bigint as dead,
        sum(pane.late)::bigint as late,
        sum(pane.followed)::bigint as followed,
        sum(pane.followed_sum) as followed_sum,
        max(pane.followed_max) as followed_max
    from newest
    cross join lateral generate_series(
        newest.last_start - make_interval(secs => newest.slide_s * ($2 - 1)), newest.last_start, make_interval(secs => newest.slide_s)
    ) as of_window (window_start)
    join live.window_count as pane
        on pane.stream = $1
            and pane.window_name = newest.window_name
            and pane.window_start >= of_window.window_start
            and pane.window_start < of_window.window_start + make_interval(secs => newest.length_s)
    group by newest.window_name, newest.length_s, of_window.window_start, pane.group_key
)
select window_name, window_start, window_start + make_interval(secs => length_s) as window_end, group_key,
    events, dead, late, followed, followed_sum::text as followed_sum, followed_max,
    (followed_sum / nullif(followed, 0))::double precision as followed_mean,
    (events / nullif(sum(events) over (partition by window_name, window_start), 0))::double precision as share,
    (dead::numeric / nullif(events + dead, 0))::double precision as error_rate,
    coalesce(
        window_start + make_interval(secs => length_s)
            <= (select min(passed.watermark) from live.stream_watermark as passed where passed.stream = $1), false
    ) as is_final
from counted
order by window_start desc, window_name, events desc, group_key
