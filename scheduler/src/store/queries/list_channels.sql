-- Lists channels with what is on its way to each. Lock: none.
select c.channel, c.kind, c.target, c.seen_at, c.delivered_at, c.failed_at, c.last_error,
    coalesce(c.failed_at > coalesce(c.delivered_at, '-infinity'), false) as "failing!",
    (select count(*) from message m where m.next_at is not null and m.channel = c.channel) as "waiting!"
from notify_channel c order by c.channel
