-- Removes messages that were over before $1 with their notifications, and lanes that are quiet no more; at most $2 messages. Lock: the rows deleted, with SKIP LOCKED.
with old as (
    select message_id from message where message_id = any (array(
        select o.message_id from (
            select message_id, delivered_at, given_up_at from message order by message_id limit $2 for update skip locked) o
        where coalesce(o.delivered_at, o.given_up_at) < $1))
), rest as (
    delete from notification where message_id = any (array(select message_id from old))
), lanes as (
    delete from notify_lane where quiet_until < $1
), gone as (
    delete from message where message_id = any (array(select message_id from old)) returning message_id
)
select count(*) as "count!" from gone
