-- Lists queues in which tasks wait though no worker that takes work serves them. Lock: none.
-- A walk from one queue to the next by the indices: `ready` may be long, and a page asks with every change.
with recursive lane as (
    (select pool, queue from ready where gates = '{}' and not parked order by pool, queue limit 1)
    union all
    select n.pool, n.queue from lane cross join lateral (
        select r.pool, r.queue from ready r
        where r.gates = '{}' and not r.parked and (r.pool, r.queue) > (lane.pool, lane.queue)
        order by r.pool, r.queue limit 1) n
), gated as (
    (select queue from ready where gates <> '{}' and not parked order by queue limit 1)
    union all
    select n.queue from gated cross join lateral (
        select r.queue from ready r where r.gates <> '{}' and not r.parked and r.queue > gated.queue
        order by r.queue limit 1) n
), waiting as (
    select queue from lane union select queue from gated
)
select q.queue as "queue!",
    (select count(*) from ready r where r.queue = q.queue and not r.parked) as "ready!"
from waiting q
where not exists (
    select from worker w
    where w.ended_at is null and w.lease_until > clock_timestamp() and w.stopping_at is null and w.slots > 0
        and q.queue = any(w.queues))
order by q.queue limit 100
