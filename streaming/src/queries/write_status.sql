-- Writes what a worker says of its stream, unless a later owner has spoken. Locks the stream's one row.
insert into stream_status as said
    (stream, topic, dataset, table_name, owner, generation, state, problem, events_per_second, partitions, last_commit)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
on conflict (stream)
do update set topic = excluded.topic,
    dataset = excluded.dataset,
    table_name = excluded.table_name,
    owner = excluded.owner,
    generation = excluded.generation,
    state = excluded.state,
    problem = excluded.problem,
    events_per_second = excluded.events_per_second,
    partitions = excluded.partitions,
    last_commit = coalesce(excluded.last_commit, said.last_commit),
    updated_at = now()
where said.generation <= excluded.generation
