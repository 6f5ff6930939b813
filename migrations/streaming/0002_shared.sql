-- Several workers share the partitions of a stream; windows slide, may leave late events out, and may hold the last events.

alter table stream_offset
    -- Of `events`, those that a window has left out because they came too late.
    add column dropped bigint not null default 0,
    -- Since when the partition has had nothing to read: it then holds no watermark back.
    add column idle_since timestamptz;

-- The windows of a stream, as the file of its workers says.
create table stream_window (
    stream text not null,
    window_name text not null,
    -- Either a length and the way from one window to the next, or the number of last events.
    length_s bigint,
    slide_s bigint,
    last_events integer,
    constraint stream_window_pkey primary key (stream, window_name),
    constraint stream_window_span check (num_nonnulls(length_s, last_events) = 1 and num_nonnulls(length_s, slide_s) <> 1)
);

-- `window_count` holds the panes of windows: as long as the window's slide. A sliding window is the sum of its panes.
alter table window_count
    -- Messages that could not become a row, where the window has no `by`.
    add column dead bigint not null default 0;

-- The last events of each partition, for windows of the last ones: oldest first.
create table window_recent (
    stream text not null,
    window_name text not null,
    topic text not null,
    partition integer not null,
    -- The newest event time of the partition when the event was read: never falls within a partition.
    seen_at timestamptz[] not null,
    group_keys text[] not null,
    constraint window_recent_pkey primary key (stream, window_name, topic, partition),
    constraint window_recent_same_length check (cardinality(seen_at) = cardinality(group_keys))
) with (fillfactor = 50);

-- The event time that a stream has passed. An idle partition does not hold it back, unless all of them are idle.
create view stream_watermark as
select stream, topic, coalesce(min(watermark) filter (where idle_since is null), max(watermark)) as watermark
from stream_offset
group by stream, topic;

-- Every window of event time with what was counted in it. `share` is the group's part of the window's events, `error_rate` the
-- part of its messages that could not become a row; a final window is only changed by late events.
create view window_result as
with counted as (
    select pane.stream, pane.window_name, of_window.window_start,
        of_window.window_start + make_interval(secs => spec.length_s) as window_end,
        pane.group_key,
        sum(pane.events)::bigint as events,
        sum(pane.dead)::bigint as dead,
        sum(pane.late)::bigint as late,
        sum(pane.followed)::bigint as followed,
        sum(pane.followed_sum) as followed_sum,
        max(pane.followed_max) as followed_max,
        sum(pane.revision)::bigint as revision
    from window_count as pane
    join stream_window as spec on spec.stream = pane.stream and spec.window_name = pane.window_name and spec.length_s is not null
    cross join lateral generate_series(
        pane.window_start - make_interval(secs => spec.length_s - spec.slide_s), pane.window_start, make_interval(secs => spec.slide_s)
    ) as of_window (window_start)
    group by pane.stream, pane.window_name, of_window.window_start, spec.length_s, pane.group_key
)
select counted.*,
    counted.followed_sum / nullif(counted.followed, 0) as followed_mean,
    counted.events::numeric
        / nullif(sum(counted.events) over (partition by counted.stream, counted.window_name, counted.window_start), 0) as share,
    counted.dead::numeric / nullif(counted.events + counted.dead, 0) as error_rate,
    coalesce(
        counted.window_end <= (select min(passed.watermark) from stream_watermark as passed where passed.stream = counted.stream), false
    ) as is_final
from counted;

-- The groups of the last events, the most frequent first; ties share a place.
create view window_top as
with entry as (
    select recent.stream, recent.window_name, spec.last_events, event.group_key,
        row_number() over (
            partition by recent.stream, recent.window_name
            order by event.seen_at desc nulls last, recent.partition, event.position desc
        ) as age
    from window_recent as recent
    join stream_window as spec on spec.stream = recent.stream and spec.window_name = recent.window_name
    cross join lateral unnest(recent.seen_at, recent.group_keys) with ordinality as event (seen_at, group_key, position)
)
select stream, window_name, group_key, count(*) as events,
    count(*) / sum(count(*)) over (partition by stream, window_name) as share,
    rank() over (partition by stream, window_name order by count(*) desc) as place
from entry
where age <= last_events
group by stream, window_name, group_key;

-- One row per worker of a stream, because several share it.
alter table stream_status
    drop constraint stream_status_pkey,
    drop column generation,
    alter column table_name drop not null,
    add constraint stream_status_pkey primary key (stream, owner);
