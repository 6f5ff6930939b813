-- Lists messages, newest first. Lock: none.
select m.message_id as "message_id: MessageId", m.dag_id as "dag_id: DagId", m.event as "event: Event", m.channel,
    m.notifications as count, m.made_at, m.next_at, m.attempts, m.delivered_at, m.given_up_at, m.last_error,
    f.run_id as "run_id?: RunId", f.detail as "detail!"
from message m cross join lateral (
    select n.run_id, n.detail from notification n where n.message_id = m.message_id order by n.notification_id limit 1) f
where ($1::text is null or m.dag_id = $1) and ($2::bigint is null or m.message_id < $2)
    and ($3::bigint is null or m.message_id = $3)
    and (not $4 or m.delivered_at is null and m.attempts > 0)
order by m.message_id desc limit $5
