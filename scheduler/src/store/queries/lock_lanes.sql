-- Takes lanes with something to be gathered. Lock: these rows with SKIP LOCKED.
select l.dag_id, l.event, l.channel,
    l.quiet_until is null or l.quiet_until <= clock_timestamp() + $1::interval as "is_open!"
from (
    select distinct n.dag_id, n.event, n.channel from (
        select dag_id, event, channel from notification where gather_at <= clock_timestamp() + $1::interval
        order by gather_at limit 1000) n) due
join notify_lane l on l.dag_id = due.dag_id and l.event = due.event and l.channel = due.channel
for update of l skip locked
