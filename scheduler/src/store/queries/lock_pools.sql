-- Locks pools that have a limit and something to claim, by name, so that their slots are counted by one at a time. Lock: these pool rows.
select p.pool from pool p
where p.slots is not null and exists (select from ready r where r.pool = p.pool and r.queue = any($1) and not r.parked)
order by p.pool for no key update
