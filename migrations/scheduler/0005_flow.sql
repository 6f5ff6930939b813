-- What decides about tasks besides their trigger rules: items of a `foreach`, and the run before.

-- The items of a mapped task, one for each of its instances. `map_index` of an instance is its place in the list; -1 while
-- the list is not known; -1 - k for what was item k of a list that a clear has done away with: it counts for nothing, keeps
-- its history, and is taken up again when the new list is as long.
create table map_item (
    instance_id bigint constraint map_item_pkey primary key,
    item jsonb not null,
    -- What people call it; NULL where the DAG file gives no name.
    name text
) with (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 5000);

-- Runs in which something may run now that waited for the run before: a note of whoever moved that run, for the scheduler. A
-- transaction of its own looks again, because it has to lock both runs in the order of their ids. Without a key: an
-- insert must never wait for the one who takes notes.
create table nudge (
    nudge_id bigint generated always as identity constraint nudge_pkey primary key,
    run_id bigint not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100);
