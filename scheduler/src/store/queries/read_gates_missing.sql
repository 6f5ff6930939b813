-- Reads the gates that ready rows of a run name and that are gone, with a task that they limit. Lock: none; the run is locked already.
select distinct on (n.gate) n.gate as "gate!", i.ordinal
from task_instance i join ready y on y.instance_id = i.instance_id cross join lateral unnest(y.gates) as n (gate)
where i.run_id = $1 and i.instance_id = any($2::bigint[]) and not exists (select from gate g where g.gate = n.gate)
order by n.gate, i.ordinal
