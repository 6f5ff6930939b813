-- Counts what a check looks at. Lock: none.
select
    (select count(*) from run where state in ('queued', 'running')) as "open_runs!",
    (select count(*) from run r join task_instance i on i.run_id = r.run_id where r.state in ('queued', 'running'))
        as "task_instances!",
    (select count(*) from ready) as "ready!",
    (select count(*) from sleeper) as "asleep!"
