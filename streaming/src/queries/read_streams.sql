-- Reads what the workers last said of their streams, with the totals of the offsets. Takes no lock.
select said.stream, said.topic, said.dataset, said.table_name, said.owner, said.state, said.problem, said.events_per_second,
    said.partitions, said.last_commit, said.updated_at,
    coalesce(sum(stands.events), 0)::bigint as events,
    coalesce(sum(stands.dead_letters), 0)::bigint as dead_letters,
    coalesce(sum(stands.late), 0)::bigint as late,
    min(stands.watermark) as watermark
from live.stream_status as said
left join live.stream_offset as stands on stands.stream = said.stream and stands.topic = said.topic
group by said.stream
order by said.stream
