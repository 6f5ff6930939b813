-- Deletes at most $3 dead letters of a stream that were kept longer than $2 seconds. Locks these rows, and none that somebody
-- else holds.
delete from dead_letter as letter
using (
    select old.topic, old.partition, old."offset"
    from dead_letter as old
    where old.stream = $1 and old.recorded_at < now() - make_interval(secs => $2)
    order by old.recorded_at
    limit $3
    for update skip locked
) as gone
where letter.stream = $1
    and letter.topic = gone.topic
    and letter.partition = gone.partition
    and letter."offset" = gone."offset"
