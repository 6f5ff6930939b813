-- Lists queues in which tasks wait though no worker that takes work serves them. Lock: none.
-- A walk from one pool and queue to the next by the index: `ready` may be long, and a page asks with every change.
with recursive lane as (
    (select pool, queue from ready where not parked order by pool, queue limit 1)
    union all
    select n.pool, n.queue from lane cross join lateral (
        select r.pool, r.queue from ready r
        where not r.parked and (r.pool, r.queue) > (lane.pool, lane.queue)
        order by r.pool, r.queue limit 1) n
)
select lane.queue as "queue!",
    sum((select count(*) from ready r where not r.parked and r.pool = lane.pool and r.queue = lane.queue))::bigint as "ready!"
from lane
where not exists (
    select from worker w
    where w.ended_at is null and w.lease_until > clock_timestamp() and w.stopping_at is null and w.slots > 0
        and lane.queue = any(w.queues))
group by lane.queue order by lane.queue limit 100
