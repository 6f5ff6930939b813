-- Gives task instances of a run other places, for its move to another version. No new place may be taken. Lock: these task instances; the run is locked already.
update task_instance i set ordinal = m.next
from unnest($2::integer[], $3::integer[]) as m (place, next)
where i.run_id = $1 and i.ordinal = m.place
