-- Takes final task instances back to waiting, with as many tries as a fresh one has; what they answered is kept with its try. Lock: these task instances; the run is locked already.
with cleared as (
    update task_instance i
    set state = 'waiting', queued_at = null, finished_at = null, reason = null, lost = 0, tries_allowed = i.tries + 1 + t.retries
    from unnest($1::bigint[], $2::bigint[], $3::integer[]) as c (instance_id, version_id, ordinal)
    join task t on t.version_id = c.version_id and t.ordinal = c.ordinal
    where i.instance_id = c.instance_id
        and i.state in ('success', 'failed', 'skipped', 'upstream_failed', 'cancelled')
    returning i.instance_id, i.tries
), kept as (
    insert into past_output (instance_id, try_number, output)
    select o.instance_id, c.tries, o.output
    from cleared c cross join lateral (select * from output where instance_id = c.instance_id offset 0) o
    on conflict (instance_id, try_number) do update set output = excluded.output
)
delete from output where instance_id = any (array(select instance_id from cleared))
