-- Notes until when runs may take that begin now, or begin again. Lock: the rows; the runs are locked already.
insert into run_limit (run_id, due_at)
select d.run_id, clock_timestamp() + d.seconds * interval '1 second'
from unnest($1::bigint[], $2::double precision[]) as d (run_id, seconds)
on conflict (run_id) do update set due_at = excluded.due_at
