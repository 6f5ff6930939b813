-- Notes what became of dates of a backfill. Lock: the backfill and these dates; its DAG row is locked already.
with noted as (
    update backfill_date d set state = n.state, run_id = n.run_id, is_open = n.state in ('made', 'cleared')
    from unnest($2::integer[], $3::backfill_date_state[], $4::bigint[]) as n (position, state, run_id)
    where d.backfill_id = $1 and d.position = n.position and d.state = 'waiting'
        -- All that waits would be looked at for each of them otherwise.
        and d.position between (select min(p) from unnest($2) p) and (select max(p) from unnest($2) p)
    returning d.is_open
)
update backfill b set open = b.open + (select count(*) from noted where is_open)::integer where b.backfill_id = $1
