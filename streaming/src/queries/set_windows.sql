-- Replaces what is known of a stream's windows by what its file says. Locks the stream's rows of stream_window.
with said as (
    select name, length_s, slide_s, last_events
    from unnest($2::text[], $3::bigint[], $4::bigint[], $5::integer[]) as said (name, length_s, slide_s, last_events)
),
gone as (
    delete from stream_window where stream = $1 and window_name not in (select name from said)
)
insert into stream_window (stream, window_name, length_s, slide_s, last_events)
select $1, said.name, said.length_s, said.slide_s, said.last_events
from said
order by said.name
on conflict (stream, window_name)
do update set length_s = excluded.length_s, slide_s = excluded.slide_s, last_events = excluded.last_events
