-- Locks pools that have a limit and something to claim, by name, so that their slots are counted by one at a time. Lock: these pool rows.
select p.pool from pool p
where p.slots is not null
    -- `offset 0`: pool by pool, each by its index.
    and (exists (select from ready r where r.pool = p.pool and r.queue = any($1) and r.gates = '{}' offset 0)
        or exists (select from ready r where r.queue = any($1) and r.gates <> '{}' and not r.parked and r.pool = p.pool offset 0))
order by p.pool for no key update
