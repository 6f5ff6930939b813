-- Makes sleepers of a run what its task instances $2 say, and forgets what none of them will resume; a sleeper whose time is lost wakes at once. Lock: the sleepers and resumes deleted; the run is locked already.
with instance as (
    select i.instance_id, i.run_id, i.state, i.state = 'sleeping' and r.state = 'running' as sleeps
    from run r join task_instance i on i.run_id = r.run_id and i.instance_id = any($2::bigint[])
    where r.run_id = $1
), removed as (
    delete from sleeper s using instance n where s.instance_id = n.instance_id and not n.sleeps
    returning s.instance_id
), added as (
    insert into sleeper (instance_id, run_id, wake_at, reason)
    select n.instance_id, n.run_id, clock_timestamp(), 'woken by a repair: its time was lost' from instance n
    where n.sleeps and not exists (select from sleeper s where s.instance_id = n.instance_id)
    on conflict (instance_id) do nothing
    returning instance_id
), forgotten as (
    delete from resume s using instance n
    where s.instance_id = n.instance_id and n.state not in ('queued', 'running', 'sleeping')
    returning s.instance_id
)
select (select count(*) from removed) + (select count(*) from forgotten) as "removed!",
    (select count(*) from added) as "added!"
