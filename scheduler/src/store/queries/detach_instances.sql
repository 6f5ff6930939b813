-- Begins to move a final run to another version of its DAG: task instances of tasks that it lacks are removed, the others are put aside under their future place. Lock: the run's task instances; the run is locked already.
with gone as (
    delete from task_instance i using run r, task o
    where r.run_id = $1 and i.run_id = r.run_id and o.version_id = r.version_id and o.ordinal = i.ordinal
        and not exists (select from task n where n.version_id = $2 and n.task_id = o.task_id)
    returning i.instance_id
), outputs as (
    delete from output where instance_id = any (array(select instance_id from gone))
), plans as (
    delete from frozen where instance_id = any (array(select instance_id from gone))
), resumes as (
    delete from resume where instance_id = any (array(select instance_id from gone))
)
update task_instance i set ordinal = -1 - n.ordinal, gates = null
from run r, task o, task n
where r.run_id = $1 and i.run_id = r.run_id and o.version_id = r.version_id and o.ordinal = i.ordinal
    and n.version_id = $2 and n.task_id = o.task_id
