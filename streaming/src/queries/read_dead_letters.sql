-- Reads a stream's newest dead letters. Takes no lock.
select partition, "offset", event_at, stage, rule, field, detail, raw
from live.dead_letter
where stream = $1
order by recorded_at desc, partition, "offset" desc
limit $2
