-- Turns what stands for a mapped task into its items, all of them claimable, and counts them downstream and in the run. Lock: these task instances; the run is locked already.
-- What a clear has done away with is taken up again as far as the new list goes.
with given as (
    select (place - 1)::integer as map_index, nullif(array_remove(array[$2, key_gate, $4], null), '{}') as gates
    from unnest($3::text[]) with ordinality as g (key_gate, place)
), first as (
    update task_instance i
    set map_index = 0, queued_at = clock_timestamp(), gates = g.gates
    from given g
    where i.instance_id = $1 and i.state = 'queued' and i.map_index = -1 and g.map_index = 0
    returning i.instance_id, i.run_id, i.ordinal, i.map_index, i.gates, i.tries, i.tries_allowed, i.pending, i.ok, i.failed,
        i.upstream_failed, i.skipped
), again as (
    update task_instance i
    set map_index = g.map_index, state = 'queued', queued_at = clock_timestamp(), gates = g.gates,
        tries_allowed = i.tries + f.tries_allowed - f.tries, lost = 0, pending = f.pending, ok = f.ok, failed = f.failed,
        upstream_failed = f.upstream_failed, skipped = f.skipped
    from first f, given g
    where i.run_id = f.run_id and i.ordinal = f.ordinal and i.map_index < -1 and i.state = 'waiting'
        and i.map_index = -1 - g.map_index
    returning i.instance_id, i.map_index, i.gates
), made as (
    insert into task_instance (run_id, ordinal, map_index, tries_allowed, pending, ok, failed, upstream_failed, skipped, state,
        queued_at, gates)
    select f.run_id, f.ordinal, g.map_index, f.tries_allowed - f.tries, f.pending, f.ok, f.failed, f.upstream_failed, f.skipped,
        'queued', clock_timestamp(), g.gates
    from first f cross join given g
    where g.map_index > 0 and not exists (
        select from task_instance o
        where o.run_id = f.run_id and o.ordinal = f.ordinal and o.map_index = -1 - g.map_index and o.state = 'waiting')
    order by g.map_index
    returning instance_id, map_index, gates
), item as (
    select instance_id, map_index, gates from first
    union all select instance_id, map_index, gates from again
    union all select instance_id, map_index, gates from made
), claimable as (
    insert into ready (instance_id, run_id, pool, queue, priority, slots, gates, expires_at)
    select i.instance_id, f.run_id, t.pool, t.queue, t.priority, t.slots, coalesce(i.gates, '{}'),
        clock_timestamp() + $7::double precision * interval '1 second'
    from item i cross join first f
    cross join lateral (select * from task where version_id = $5 and ordinal = f.ordinal offset 0) t
    order by i.map_index
), below as (
    update task_instance d
    set pending = d.pending + $6 - 1
    from first f cross join lateral (
        select downstream from edge where version_id = $5 and upstream = f.ordinal offset 0) e
    where d.run_id = f.run_id and d.ordinal = e.downstream
), counted as (
    update run r set unfinished = r.unfinished + $6 - 1 from first f where r.run_id = f.run_id
)
select count(*) as "count!" from item
