-- Reads the runs of a backfill that have begun for it and not ended. Lock: none.
select d.run_id as "run_id!: RunId" from backfill_date d join run r on r.run_id = d.run_id
where d.backfill_id = $1 and d.is_open and r.finished_at is null order by d.run_id
