-- Reads the gates of waiting items that are about to be queued again. Lock: none; their runs are locked already.
select distinct i.ordinal, n.gate as "gate!", w.version_id as "version_id!: VersionId"
from unnest($1::bigint[], $2::integer[], $3::bigint[]) as w (run_id, ordinal, version_id)
cross join lateral (
    select * from task_instance where run_id = w.run_id and ordinal = w.ordinal and map_index >= 0 and state = 'waiting' offset 0) i
cross join lateral unnest(i.gates) as n (gate)
