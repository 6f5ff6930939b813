-- Lists the first notifications of messages. Lock: none.
select m.message_id as "message_id!: MessageId", n.run_id as "run_id?: RunId", n.happened_at, n.detail
from unnest($1::bigint[]) as m (message_id) cross join lateral (
    select * from notification where message_id = m.message_id order by notification_id limit $2) n
