-- Limits besides pools: how many tasks of a run, or with the same concurrency key, may be running at once.
-- A gate is such a limit. What a full gate holds back is parked: it stays in `ready`, out of the claim's index, until
-- somebody who ends an execution behind the same gate lets it out. So a full gate never delays what it does not hold.

create table gate (
    -- `run:17` for max_active_tasks, `key:…` for a concurrency key.
    gate text constraint gate_pkey primary key,
    slots integer not null constraint gate_slots_positive check (slots > 0),
    -- When a task was last put behind it; one that nobody has used for a while is removed.
    touched_at timestamptz not null default clock_timestamp()
);

-- Who is running behind a gate; the number of rows is what is in use, so there is no counter that could be wrong.
create table gate_use (
    gate text not null,
    instance_id bigint not null,
    constraint gate_use_pkey primary key (gate, instance_id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
create index gate_use_instance_idx on gate_use (instance_id);

-- The gates that a task instance has to pass, rendered when it first became ready; NULL for none.
alter table task_instance add column gates text[];

alter table ready
    -- The same; empty for none.
    add column gates text[] not null default '{}',
    add column parked boolean not null default false;
drop index ready_claim_idx;
create index ready_claim_idx on ready (pool, queue, priority desc, instance_id) where gates = '{}';
create index ready_gated_idx on ready (queue, priority desc, instance_id) where gates <> '{}' and not parked;

-- Which ready rows are parked behind which gate.
create table parked (
    gate text not null,
    pool text not null,
    queue text not null,
    priority integer not null,
    instance_id bigint not null,
    constraint parked_pkey primary key (gate, instance_id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
create index parked_order_idx on parked (gate, pool, queue, priority desc, instance_id);
create index parked_instance_idx on parked (instance_id);
