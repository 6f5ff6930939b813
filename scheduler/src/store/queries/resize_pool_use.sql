-- Notes anew how many slots the running tasks of a pool take, when its size changes: a task that takes more than the pool has takes all of it. Lock: these rows with SKIP LOCKED (what is locked is ending); the pool row is locked already, so no claim adds any.
with held as (
    select instance_id from pool_use where pool = $1 order by instance_id for no key update skip locked
)
update pool_use u set slots = least(t.slots, $2)
from held h join task_instance i on i.instance_id = h.instance_id
join run r on r.run_id = i.run_id
join task t on t.version_id = r.version_id and t.ordinal = i.ordinal
where u.instance_id = h.instance_id and u.slots <> least(t.slots, $2)
