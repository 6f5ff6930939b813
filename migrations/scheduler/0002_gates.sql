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

-- What follows when every upstream task succeeds, as the pure model says: the task runs. Then its counters alone decide, and
-- the statement that settles the last upstream task promotes it. False for a task behind a gate.
alter table task add column runs_if_all_ok boolean not null default false;

-- A finisher hands a free slot straight to the task that it promotes, if that one would be claimed first anyway.
drop trigger task_instance_transition on task_instance;
create trigger task_instance_transition before update of state on task_instance for each row
when (old.state is distinct from new.state and (old.state, new.state) not in (
    ('waiting', 'queued'), ('waiting', 'running'), ('queued', 'running'), ('running', 'success'),
    ('waiting', 'skipped'), ('waiting', 'upstream_failed'), ('waiting', 'cancelled'),
    ('queued', 'cancelled'),
    ('running', 'queued'), ('running', 'sleeping'), ('running', 'failed'),
    ('running', 'skipped'), ('running', 'cancelled'),
    ('sleeping', 'queued'), ('sleeping', 'cancelled')))
execute function refuse_transition();
