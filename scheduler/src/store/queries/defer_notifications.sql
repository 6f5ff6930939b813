-- Lets notifications wait for the end of the cool-down of their lane. Lock: these rows; the lanes are locked already.
update notification n set gather_at = q.quiet_until
from unnest($1::text[], $2::text[], $3::text[]) as l (dag_id, event, channel)
cross join lateral (
    select * from notify_lane where dag_id = l.dag_id and event = l.event and channel = l.channel offset 0) q
where n.dag_id = l.dag_id and n.event = l.event and n.channel = l.channel and n.gather_at is not null
    and n.gather_at < q.quiet_until
