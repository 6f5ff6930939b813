-- Finds parked rows that do not belong to a parked ready row, those that nobody will let out, and gates that are gone. Lock: none.
-- A row is let out when an execution behind the same gate ends. So it waits for ever when nothing runs behind its gate
-- and nothing that may be claimed will.
with awaited as (
    select distinct unnest(gates) as gate from ready where gates <> '{}' and not parked
), behind as (
    select p.instance_id, p.gate,
        coalesce(y.parked and p.gate = any(y.gates)
            and (p.pool, p.queue, p.priority) = (y.pool, y.queue, y.priority), false) as fits,
        exists (select from gate g where g.gate = p.gate) and (
            exists (select from gate_use u where u.gate = p.gate)
            or exists (select from awaited a where a.gate = p.gate)) as wakes
    from parked p left join ready y on y.instance_id = p.instance_id
), found as (
    select 'parked_wrong' as kind, instance_id, format('parked behind gate %s', gate) as stored,
        'not parked there, by its ready row' as expected
    from behind where not fits
    union all
    select 'parked_wrong', y.instance_id, 'parked', 'not parked: no gate holds it back'
    from ready y where y.parked and not exists (select from parked p where p.instance_id = y.instance_id)
    union all
    select 'parked_forever', instance_id, format('parked behind gate %s', string_agg(gate, ', ' order by gate)),
        'claimable: nobody would let it out'
    from behind group by instance_id having bool_and(fits) and not bool_or(wakes)
    union all
    select 'gate_missing', y.instance_id, format('gate %s is gone', n.gate), 'a gate: nobody claims what stands before none'
    from ready y cross join lateral unnest(y.gates) as n (gate)
    where y.gates <> '{}' and not exists (select from gate g where g.gate = n.gate)
)
select f.kind as "kind!: FindingKind", r.dag_id as "dag_id?: DagId", i.run_id as "run_id?: RunId",
    t.task_id as "task_id?: TaskId", i.map_index as "map_index?", f.instance_id as "instance_id?: InstanceId",
    f.stored as "stored!", f.expected as "expected!"
from found f left join task_instance i on i.instance_id = f.instance_id
left join run r on r.run_id = i.run_id
left join task t on t.version_id = r.version_id and t.ordinal = i.ordinal
order by i.run_id, f.instance_id, f.kind, f.stored
