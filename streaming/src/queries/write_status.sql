-- Writes what a worker says of itself. Locks the worker's one row.
insert into stream_status as said
    (stream, owner, topic, dataset, table_name, state, problem, events_per_second, partitions, last_commit)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
on conflict (stream, owner)
do update set topic = excluded.topic,
    dataset = excluded.dataset,
    table_name = excluded.table_name,
    state = excluded.state,
    problem = excluded.problem,
    events_per_second = excluded.events_per_second,
    partitions = excluded.partitions,
    last_commit = coalesce(excluded.last_commit, said.last_commit),
    updated_at = now()
