-- Finds task instances that are not final although their run is, or that have none. Reads all of task_instance, which has no index on its state. Lock: none.
select case when r.run_id is null then 'instance_without_run' else 'unfinished_in_final_run' end as "kind!: FindingKind",
    r.dag_id as "dag_id?: DagId", i.run_id as "run_id?: RunId", t.task_id as "task_id?: TaskId",
    i.map_index as "map_index?", i.instance_id as "instance_id?: InstanceId",
    i.state::text as "stored!",
    case when r.run_id is null then 'nothing: there is no such run' else format('final: its run is %s', r.state) end
        as "expected!"
from task_instance i left join run r on r.run_id = i.run_id
left join task t on t.version_id = r.version_id and t.ordinal = i.ordinal
where i.state in ('waiting', 'queued', 'running', 'sleeping')
    and i.map_index >= -1 and (r.run_id is null or r.state in ('success', 'failed', 'cancelled'))
order by i.run_id, i.instance_id
