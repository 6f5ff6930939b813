-- Lets a message that is not delivered be tried again now, for as long as a new one. Lock: the message.
update message set next_at = clock_timestamp(), given_up_at = null, give_up_at = clock_timestamp() + $2::interval
where message_id = $1 and delivered_at is null
