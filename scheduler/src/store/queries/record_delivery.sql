-- Notes that a message was delivered, whoever holds it by now. Lock: the message, then the channel.
with over as (
    update message set delivered_at = clock_timestamp(), next_at = null, given_up_at = null, last_error = null
    where message_id = $1 and delivered_at is null
    returning channel
)
insert into notify_channel as c (channel, delivered_at) select channel, clock_timestamp() from over
on conflict (channel) do update set delivered_at = excluded.delivered_at
