-- Notes that a message could not be delivered, and when it is tried again or that it is given up; nothing when somebody else has it by now. Lock: the message, then the channel.
with failed as (
    update message m
    set last_error = $3,
        next_at = case when clock_timestamp() + $4::interval >= m.give_up_at then null
            else least(clock_timestamp() + $4::interval + $5::interval, m.give_up_at) end,
        given_up_at = case when clock_timestamp() + $4::interval >= m.give_up_at then clock_timestamp() end
    where m.message_id = $1 and m.attempts = $2 and m.next_at is not null
    returning m.channel, m.given_up_at is not null as given_up
), noted as (
    insert into notify_channel as c (channel, failed_at, last_error) select channel, clock_timestamp(), $3 from failed
    on conflict (channel) do update set failed_at = excluded.failed_at, last_error = excluded.last_error
)
select given_up as "given_up!" from failed
