-- Gives runs that have just started the deadlines that count from there. Lock: none but the new rows.
insert into run_deadline (run_id, deadline, name, ordinal, due_at)
select r.run_id, d.deadline, d.name, d.ordinal, clock_timestamp() + d.after
from unnest($1::bigint[], $2::bigint[]) as r (run_id, version_id)
cross join lateral (
    select * from deadline where version_id = r.version_id and origin = 'started' offset 0) d
on conflict (run_id, deadline) do nothing
