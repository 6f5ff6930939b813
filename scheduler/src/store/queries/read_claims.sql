-- Reads what a worker holds, for one that lost the answer to a claim. Lock: none.
select c.instance_id as "instance_id?: InstanceId", c.run_id as "run_id?: RunId", c.ordinal as "ordinal?", c.map_index as "map_index?",
    case when c.map_index >= 0 then (select m.item from map_item m where m.instance_id = c.instance_id) end as "item?",
    c.epoch as "epoch?", c.tries as "tries?", c.tries_allowed as "tries_allowed?", c.lost as "lost?",
    r.dag_id as "dag_id?: DagId", r.version_id as "version_id?: VersionId", r.logical_date as "logical_date?",
    r.data_interval_start as "data_interval_start?", r.data_interval_end as "data_interval_end?",
    p.params as "params?", s.resume as "resume?", false as "several_lanes!", false as "closed_lanes!", false as "gated!"
from run r
-- `offset 0`: run by run, also before anything was analysed.
cross join lateral (
    select * from task_instance where run_id = r.run_id and state = 'running' and worker_id = $1 offset 0) c
left join run_params p on p.run_id = c.run_id
left join resume s on s.instance_id = c.instance_id
where r.state in ('queued', 'running')
