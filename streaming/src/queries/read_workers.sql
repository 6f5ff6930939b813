-- Reads what the workers last said of their streams, the newest word first. Takes no lock.
select stream, owner, topic, dataset, table_name, state, problem, events_per_second, partitions, last_commit, updated_at,
    state in ('starting', 'running', 'waiting') and updated_at < now() - interval '60 seconds' as is_lost
from live.stream_status
order by stream, updated_at desc, owner
