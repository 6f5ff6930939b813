-- Takes what was parked behind these gates out again, as far as they have room: the best of every pool and queue, because what waits in a full pool must not stand before others. Lock: the gates are locked already; ready rows.
with let_out as (
    select p.instance_id
    from gate g
    cross join lateral (
        select g.slots - (select count(*) from gate_use u where u.gate = g.gate) as free) room
    cross join lateral (
        with recursive lane as (
            (select p.pool, p.queue from parked p where p.gate = g.gate order by p.pool, p.queue limit 1)
            union all
            select n.pool, n.queue from lane l cross join lateral (
                select p.pool, p.queue from parked p
                where p.gate = g.gate and (p.pool, p.queue) > (l.pool, l.queue)
                order by p.pool, p.queue limit 1) n
        )
        select * from lane) lane
    cross join lateral (
        select p.instance_id from parked p
        where p.gate = g.gate and p.pool = lane.pool and p.queue = lane.queue
        order by p.priority desc, p.instance_id limit greatest(room.free, 0)) p
    where g.gate = any($1::text[])
), gone as (
    delete from parked where instance_id = any (array(select instance_id from let_out))
), marked as (
    update ready set parked = false where instance_id = any (array(select instance_id from let_out)) and parked
    returning instance_id
)
select count(*) as "count!" from marked
