-- Removes gates before which nobody has come since $1 and that nobody stands before or behind, at most $2. Lock: these gate rows with SKIP LOCKED.
-- Whoever comes before a gate again touches it first, unless that was done minutes ago: then it is not old enough to be
-- here, and otherwise its row is locked or looked at again. What sleeps comes back without touching its gate.
with needed as (
    select unnest(gates) as gate from ready where gates <> '{}'
    union
    select gate from parked
    union
    select gate from gate_use
    union
    select unnest(i.gates) from sleeper s join task_instance i on i.instance_id = s.instance_id
)
delete from gate where gate = any (array(
    select g.gate from gate g
    where g.touched_at < $1 and not exists (select from needed n where n.gate = g.gate)
    order by g.gate limit $2 for update of g skip locked))
