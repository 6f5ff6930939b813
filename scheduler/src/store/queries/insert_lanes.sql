-- Makes sure that what is to be gathered has a lane. Lock: none but the new rows.
insert into notify_lane (dag_id, event, channel)
select distinct n.dag_id, n.event, n.channel from (
    select dag_id, event, channel from notification where gather_at <= clock_timestamp() + $1::interval
    order by gather_at limit 1000) n
order by n.dag_id, n.event, n.channel
on conflict (dag_id, event, channel) do nothing
