-- Finds sleepers that are missing or too many, and what a sleep left behind that nobody will resume. Lock: none.
with asleep as (
    select i.instance_id from run r join task_instance i on i.run_id = r.run_id
    where r.state = 'running' and i.state = 'sleeping'
), found as (
    select 'sleeper_missing' as kind, a.instance_id, 'no row that wakes it' as stored from asleep a
    where not exists (select from sleeper s where s.instance_id = a.instance_id)
    union all
    select 'sleeper_extra', s.instance_id, 'a row that wakes it' from sleeper s
    where not exists (select from asleep a where a.instance_id = s.instance_id)
    union all
    select 'resume_extra', s.instance_id, 'something to resume' from resume s
    left join task_instance i on i.instance_id = s.instance_id
    where i.state is null or i.state not in ('queued', 'running', 'sleeping')
)
select f.kind as "kind!: FindingKind", r.dag_id as "dag_id?: DagId", i.run_id as "run_id?: RunId",
    t.task_id as "task_id?: TaskId", i.map_index as "map_index?", f.instance_id as "instance_id?: InstanceId",
    f.stored as "stored!",
    case when f.kind = 'sleeper_missing' then 'one: it sleeps'
        when i.state is null then 'nothing: there is no such task instance'
        when i.state = 'sleeping' then format('nothing: its run is %s', coalesce(r.state::text, 'gone'))
        else format('nothing: it is %s', i.state) end as "expected!"
from found f left join task_instance i on i.instance_id = f.instance_id
left join run r on r.run_id = i.run_id
left join task t on t.version_id = r.version_id and t.ordinal = i.ordinal
order by i.run_id, f.instance_id, f.kind
