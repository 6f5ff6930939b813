-- Lets out those of a run's task instances $2 whose parked rows are wrong or that nobody else would let out; the claim looks at them again. Lock: the run, the gates and the ready rows $3 are locked already.
with awaited as (
    select distinct unnest(gates) as gate from ready where gates <> '{}' and not parked
), mine as (
    select i.instance_id, y.instance_id is null as is_stray, y.pool, y.queue, y.priority, y.gates, y.parked
    from task_instance i left join ready y on y.instance_id = i.instance_id
    where i.run_id = $1 and i.instance_id = any($2::bigint[])
        and (y.instance_id is null or y.instance_id in (select unnest($3::bigint[])))
), behind as (
    select m.instance_id,
        coalesce(m.parked and p.gate = any(m.gates)
            and (p.pool, p.queue, p.priority) = (m.pool, m.queue, m.priority), false) as fits,
        exists (select from gate g where g.gate = p.gate) and (
            exists (select from gate_use u where u.gate = p.gate)
            or exists (select from awaited a where a.gate = p.gate)) as wakes
    from mine m join parked p on p.instance_id = m.instance_id
), let_out as (
    select b.instance_id from behind b group by b.instance_id having not bool_and(b.fits) or not bool_or(b.wakes)
    union
    select m.instance_id from mine m where m.parked
        and not exists (select from parked p where p.instance_id = m.instance_id)
), gone as (
    delete from parked p using let_out o where p.instance_id = o.instance_id
), marked as (
    update ready y set parked = false from let_out o where y.instance_id = o.instance_id and y.parked
)
select count(*) as "count!" from let_out
