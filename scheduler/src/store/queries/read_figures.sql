-- Computes how fast final runs went, for benchmarks. Lock: none.
with r as materialized (
    select run_id, version_id, state, finished_at,
        case when kind = 'scheduled' then data_interval_end else created_at end as asked_at,
        case when kind = 'scheduled' then data_interval_end end as tick
    from run where dag_id like $1 || '%' and run_id > $2 and finished_at is not null
), i as materialized (
    select r.run_id, r.tick, t.started_at, above.finished_at as ready_at
    from r cross join lateral (select * from task_instance where run_id = r.run_id offset 0) i
    cross join lateral (select * from try where instance_id = i.instance_id offset 0) t
    left join lateral (
        select max(p.finished_at) as finished_at from edge e
        cross join lateral (
            select t.finished_at from task_instance p join try t on t.instance_id = p.instance_id
            where p.run_id = r.run_id and p.ordinal = e.upstream offset 0) p
        where e.version_id = r.version_id and e.downstream = i.ordinal) above on true
), hop as (
    select extract(epoch from started_at - ready_at) * 1000 as ms from i where ready_at is not null
), late as (
    select extract(epoch from min(started_at) - tick) * 1000 as ms from i where tick is not null group by run_id, tick
)
select (select count(*) from r) as "runs!",
    (select count(*) from r where state <> 'success') as "unsuccessful!",
    (select count(*) from i) as "tasks!",
    (select coalesce(extract(epoch from max(finished_at) - min(asked_at)) * 1000, 0)::double precision from r) as "wall_ms!",
    (select percentile_cont(0.5) within group (order by ms) from hop)::double precision as hop_p50_ms,
    (select percentile_cont(0.99) within group (order by ms) from hop)::double precision as hop_p99_ms,
    (select percentile_cont(0.5) within group (order by ms) from late)::double precision as lateness_p50_ms,
    (select percentile_cont(0.99) within group (order by ms) from late)::double precision as lateness_p99_ms
