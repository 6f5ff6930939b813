-- Reads the newest run and the time, for benchmarks. Lock: none.
select coalesce(max(run_id), 0) as "run_id!: RunId", clock_timestamp() as "now!" from run
