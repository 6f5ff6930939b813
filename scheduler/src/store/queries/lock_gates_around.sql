-- Locks every gate that task instances have to do with, in order, so that nobody parks behind them or lets out meanwhile. Lock: these gate rows; the run is locked already.
with named as (
    select unnest(i.gates) as gate from task_instance i where i.instance_id = any($1::bigint[])
    union
    select unnest(y.gates) from ready y where y.instance_id = any($1::bigint[])
    union
    select p.gate from parked p where p.instance_id = any($1::bigint[])
    union
    select u.gate from gate_use u where u.instance_id = any($1::bigint[])
)
select gate from gate where gate = any (array(select gate from named)) order by gate for no key update
