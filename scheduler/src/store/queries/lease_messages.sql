-- Takes messages that are to be delivered now; whoever does not say what became of them within the lease loses them to others. Lock: these rows with SKIP LOCKED.
with due as materialized (
    select message_id from message where next_at <= clock_timestamp() + $1::interval
    order by next_at limit $2 for update skip locked
)
update message m set next_at = clock_timestamp() + $1::interval + $3::interval, attempts = m.attempts + 1
from due where m.message_id = due.message_id
returning m.message_id as "message_id: MessageId", m.dag_id as "dag_id: DagId", m.event as "event: Event", m.channel,
    m.made_at, m.attempts, m.notifications as count
