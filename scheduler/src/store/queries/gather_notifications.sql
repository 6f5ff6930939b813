-- Makes one message of all that waits in each lane, and lets what comes next wait for the cool-down. Lock: these notifications; the lanes are locked already.
with lane as materialized (
    select * from unnest($1::text[], $2::text[], $3::text[]) as l (dag_id, event, channel)
), chosen as materialized (
    select n.notification_id, n.dag_id, n.event, n.channel, n.cool_down
    from lane l join notification n on n.dag_id = l.dag_id and n.event = l.event and n.channel = l.channel
    where n.gather_at is not null for update of n
), made as (
    insert into message (dag_id, event, channel, notifications, next_at, give_up_at)
    select dag_id, event, channel, count(*), clock_timestamp(), clock_timestamp() + $4::interval + $5::interval
    from chosen group by dag_id, event, channel
    returning message_id, dag_id, event, channel
), gathered as (
    update notification n set gather_at = null, message_id = m.message_id
    from chosen c join made m on m.dag_id = c.dag_id and m.event = c.event and m.channel = c.channel
    where n.notification_id = c.notification_id
), quiet as (
    update notify_lane l set quiet_until = clock_timestamp() + $4::interval + c.cool_down
    from (select dag_id, event, channel, max(cool_down) as cool_down from chosen group by dag_id, event, channel) c
    where l.dag_id = c.dag_id and l.event = c.event and l.channel = c.channel
)
select count(*) as "count!" from made
