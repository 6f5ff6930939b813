-- Lists backfills, newest first, with what has become of their dates. Lock: none.
select b.backfill_id as "backfill_id: BackfillId", b.dag_id as "dag_id: DagId", b.state as "state: BackfillState",
    b.from_date, b.to_date, b.reprocess as "reprocess: Reprocess", b.is_backwards, b.stops_on_failure, b.max_active_runs,
    b.params, b.created_by, b.created_at, b.finished_at, g.paused as dag_is_paused,
    p.total as "total!", p.waiting as "waiting!", p.running as "running!", p.success as "success!", p.failed as "failed!",
    p.cancelled as "cancelled!", p.left_alone as "left_alone!", p.removed as "removed!"
from (
    select * from backfill
    where ($1::text is null or dag_id = $1) and ($2::bigint is null or backfill_id = $2)
        and ($3::bigint is null or backfill_id < $3)
    order by backfill_id desc limit $4) b
join dag g on g.dag_id = b.dag_id
cross join lateral (
    select count(*) as total, count(*) filter (where d.state = 'waiting') as waiting,
        count(*) filter (where d.state in ('made', 'cleared') and r.state in ('queued', 'running')) as running,
        count(*) filter (where d.state in ('made', 'cleared') and r.state = 'success') as success,
        count(*) filter (where d.state in ('made', 'cleared') and r.state = 'failed') as failed,
        count(*) filter (where d.state = 'cancelled' or d.state in ('made', 'cleared') and r.state = 'cancelled') as cancelled,
        count(*) filter (where d.state = 'left') as left_alone,
        count(*) filter (where d.state in ('made', 'cleared') and r.run_id is null) as removed
    from backfill_date d left join run r on r.run_id = d.run_id
    where d.backfill_id = b.backfill_id) p
order by b.backfill_id desc
