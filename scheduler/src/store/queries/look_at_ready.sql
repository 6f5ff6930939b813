-- Finds ready rows that are missing, too many or wrong. Lock: none.
with queued as (
    select i.instance_id from run r join task_instance i on i.run_id = r.run_id
    where r.state = 'running' and i.state = 'queued'
), found as (
    select instance_id, q.instance_id is not null as is_queued, y.instance_id is not null as is_ready,
        coalesce(i.run_id, y.run_id) as run_id, i.map_index, i.state, r.state as run_state, r.dag_id, t.task_id,
        format('run %s, pool %s, queue %s, priority %s, %s slots, gates {%s}', y.run_id, y.pool, y.queue, y.priority,
            y.slots, array_to_string(y.gates, ',')) as stored,
        format('run %s, pool %s, queue %s, priority %s, %s slots, gates {%s}', i.run_id, t.pool, t.queue, t.priority,
            t.slots, array_to_string(coalesce(i.gates, '{}'), ',')) as expected
    from queued q full join ready y using (instance_id)
    left join task_instance i using (instance_id)
    left join run r on r.run_id = i.run_id
    left join task t on t.version_id = r.version_id and t.ordinal = i.ordinal
)
select case when is_queued and is_ready then 'ready_wrong' when is_queued then 'ready_missing' else 'ready_extra' end
        as "kind!: FindingKind",
    dag_id as "dag_id?: DagId", run_id as "run_id?: RunId", task_id as "task_id?: TaskId", map_index as "map_index?",
    instance_id as "instance_id?: InstanceId",
    case when is_queued and is_ready then stored when is_queued then 'no ready row' else 'a ready row' end as "stored!",
    case when is_queued and is_ready then expected when is_queued then 'a ready row: it is queued'
        when state is null then 'none: there is no such task instance'
        when state <> 'queued' then format('none: it is %s', state)
        else format('none: its run is %s', coalesce(run_state::text, 'gone')) end as "expected!"
from found
where not (is_queued and is_ready and stored = expected)
order by run_id, instance_id
