-- Locks the gates before what may be claimed first, leaving out those that somebody else works at. Lock: these gate rows with SKIP LOCKED, and the worker row FOR KEY SHARE.
with claimer as (
    select worker_id from worker where worker_id = $1 and ended_at is null for key share skip locked
), wanted as (
    select distinct unnest(first.gates) as gate from (
        select r.gates from claimer cross join lateral (
            select * from ready where queue = any($2::text[]) and gates <> '{}' and not parked
            order by priority desc, instance_id limit $3) r) first
)
select g.gate, g.slots from gate g where g.gate = any (array(select gate from wanted))
order by g.gate for no key update skip locked
