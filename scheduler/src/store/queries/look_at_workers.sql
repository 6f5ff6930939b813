-- Finds executions whose worker has ended or does not exist, and workers whose lease has been over for a minute without anybody ending them. Lock: none.
with found as (
    select 'worker_gone' as kind, i.run_id, i.instance_id, r.dag_id, t.task_id, i.map_index,
        case when w.worker_id is null then format('running by worker %s, which does not exist', i.worker_id)
            else format('running by worker %s (%s), which has ended', i.worker_id, w.name) end as stored,
        'given to others: nobody will report its end' as expected
    from run r join task_instance i on i.run_id = r.run_id
    join task t on t.version_id = r.version_id and t.ordinal = i.ordinal
    left join worker w on w.worker_id = i.worker_id
    where r.state = 'running' and i.state = 'running' and (w.worker_id is null or w.ended_at is not null)
    union all
    select 'worker_not_ended', null, null, null, null, null,
        format('worker %s (%s), whose lease ended at %s', w.worker_id, w.name,
            to_char(w.lease_until at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS"Z"')),
        'ended, and its tasks given to others'
    from worker w where w.ended_at is null and w.lease_until < clock_timestamp() - interval '1 minute'
)
select kind as "kind!: FindingKind", dag_id as "dag_id?: DagId", run_id as "run_id?: RunId",
    task_id as "task_id?: TaskId", map_index as "map_index?", instance_id as "instance_id?: InstanceId",
    stored as "stored!", expected as "expected!"
from found order by run_id, instance_id, stored
