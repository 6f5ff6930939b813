-- Counts the slots of pools that have a limit, for metrics. Lock: none.
select p.pool, p.slots as "slots!",
    coalesce((select sum(u.slots) from pool_use u where u.pool = p.pool), 0)::bigint as "used!"
from pool p where p.slots is not null order by p.pool limit 1000
