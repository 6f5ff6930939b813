-- Lists the notes of a run and its task instances, the run's first. Lock: none.
select n.instance_id as "instance_id: InstanceId", coalesce(t.task_id, m.task_id) as "task_id?: TaskId", i.map_index as "map_index?",
    n.note, n.written_by, n.written_at
from note n join run r on r.run_id = n.run_id
left join task_instance i on i.instance_id = n.instance_id
left join task t on t.version_id = r.version_id and t.ordinal = i.ordinal
left join removed_task m on m.run_id = n.run_id and m.ordinal = i.ordinal
where n.run_id = $1 order by n.instance_id
