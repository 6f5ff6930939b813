-- The orchestrator's tables. Hot and narrow: run, task_instance, ready, sleeper, worker. Apart from them: definitions,
-- history, outputs, logs. No index on a mutable state column (it would stop every HOT update); what may be claimed
-- stands in `ready`, what wakes by the clock in `sleeper`, and both can be rebuilt from `task_instance`.
-- Tables written once per task (task_instance, try, log_line, output, rendered) carry no foreign key: a check costs
-- 5 to 10 µs per row, a third of the whole step, and their writers have read the parent row in the same transaction.

create type run_state as enum ('queued', 'running', 'success', 'failed', 'cancelled');
create type run_kind as enum ('scheduled', 'manual', 'backfill', 'dataset');
create type task_state as enum ('waiting', 'queued', 'running', 'sleeping',
    'success', 'failed', 'skipped', 'upstream_failed', 'cancelled');
create type sleep_reason as enum ('retry', 'deferred', 'rescheduled');
create type try_outcome as enum ('success', 'failed', 'skipped', 'cancelled', 'lost', 'timeout');

create table pool (
    pool text constraint pool_pkey primary key,
    -- NULL: no limit but the workers' own slots.
    slots integer constraint pool_slots_positive check (slots > 0),
    description text not null default ''
);
insert into pool (pool, description) values ('default', 'Tasks that name no pool');

create table dag (
    dag_id text constraint dag_pkey primary key,
    -- The file it was last read from, relative to the DAG folder.
    file text not null,
    current_version bigint,
    paused boolean not null default false,
    -- False once the file is gone: no new runs, history stays.
    present boolean not null default true,
    -- The logical date of the next scheduled run and when it fires; NULL without a schedule.
    next_logical_date timestamptz,
    next_fire_at timestamptz,
    -- The last logical date for which the schedule made a run; it makes none for it again, nor for an earlier one.
    last_logical_date timestamptz,
    -- Ticks before this instant are never made up for: the moment the present schedule was first seen.
    schedule_since timestamptz not null default now(),
    -- Ticks before this instant passed while the DAG was paused; catchup decides about them.
    active_since timestamptz not null default now(),
    -- From the current version, for lists and for starting runs.
    description text not null default '',
    schedule text,
    max_active_runs integer not null default 1 constraint dag_max_active_runs_positive check (max_active_runs > 0),
    updated_at timestamptz not null default now()
);
create index dag_next_fire_at_idx on dag (next_fire_at) where next_fire_at is not null;

create table dag_version (
    version_id bigint generated always as identity constraint dag_version_pkey primary key,
    dag_id text not null constraint dag_version_dag_fkey references dag,
    -- SHA-256 of the file's bytes, in hex.
    content_hash text not null,
    source text not null,
    -- The validated definition, as `model::Dag` serialises it.
    definition jsonb not null,
    created_at timestamptz not null default now(),
    constraint dag_version_hash_key unique (dag_id, content_hash)
);
alter table dag add constraint dag_current_version_fkey foreign key (current_version) references dag_version;

-- The errors of DAG files as they stand now, shown as banners. One row per file with errors.
create table dag_file_error (
    file text constraint dag_file_error_pkey primary key,
    -- What `dags check` prints, without colour.
    report text not null,
    error_count integer not null,
    since timestamptz not null default now()
);

-- Tasks and edges of a version, by ordinal (topological order), for set-based promotion.
create table task (
    version_id bigint not null constraint task_version_fkey references dag_version on delete cascade,
    ordinal integer not null,
    task_id text not null,
    kind text not null,
    trigger_rule text not null,
    pool text not null,
    queue text not null,
    priority integer not null,
    slots integer not null constraint task_slots_positive check (slots > 0),
    -- Tries beyond the first.
    retries integer not null constraint task_retries_not_negative check (retries >= 0),
    allow_failure boolean not null,
    upstream_count integer not null,
    constraint task_pkey primary key (version_id, ordinal),
    constraint task_id_key unique (version_id, task_id)
);
create table edge (
    version_id bigint not null constraint edge_version_fkey references dag_version on delete cascade,
    upstream integer not null,
    downstream integer not null,
    constraint edge_pkey primary key (version_id, upstream, downstream)
);

create table run (
    run_id bigint generated always as identity constraint run_pkey primary key,
    dag_id text not null constraint run_dag_fkey references dag,
    version_id bigint not null constraint run_version_fkey references dag_version,
    kind run_kind not null,
    state run_state not null default 'queued',
    logical_date timestamptz not null,
    data_interval_start timestamptz not null,
    data_interval_end timestamptz not null,
    -- Task instances that are not final, and final ones that make the run fail. Only kept while state is running.
    unfinished integer not null default 0 constraint run_unfinished_not_negative check (unfinished >= 0),
    failures integer not null default 0 constraint run_failures_not_negative check (failures >= 0),
    created_at timestamptz not null default clock_timestamp(),
    started_at timestamptz,
    finished_at timestamptz,
    -- Who or what asked for it, for people.
    triggered_by text not null default '',
    constraint run_once_key unique (dag_id, logical_date, kind),
    constraint run_interval_ordered check (data_interval_start <= data_interval_end),
    constraint run_started_matches_state check ((state in ('queued')) = (started_at is null) or state = 'cancelled'),
    constraint run_finished_matches_state check ((state in ('success', 'failed', 'cancelled')) = (finished_at is not null))
) with (fillfactor = 70);
create index run_dag_idx on run (dag_id, run_id desc);
create index run_open_idx on run (dag_id, run_id) where state in ('queued', 'running');

create table run_params (
    run_id bigint constraint run_params_pkey primary key constraint run_params_run_fkey references run on delete cascade,
    params jsonb not null
);

create table worker (
    worker_id bigint generated always as identity constraint worker_pkey primary key,
    name text not null,
    version text not null,
    queues text[] not null,
    slots integer not null,
    running integer not null default 0,
    -- Whether the process also runs the scheduler's loops, and whether it runs tasks.
    is_scheduler boolean not null default false,
    started_at timestamptz not null default clock_timestamp(),
    -- Past this the worker's tasks belong to the reaper.
    lease_until timestamptz not null,
    ended_at timestamptz
) with (fillfactor = 50);

create table task_instance (
    instance_id bigint generated always as identity constraint task_instance_pkey primary key,
    run_id bigint not null,
    worker_id bigint,
    -- The fence is (worker_id, epoch): it grows with every claim and never falls.
    epoch integer not null default 0,
    ordinal integer not null,
    -- -1 for a task that is not mapped.
    map_index integer not null default -1,
    -- Tries begun, and how many may begin before a failure is final. A clear raises the second.
    tries integer not null default 0,
    tries_allowed integer not null,
    -- Executions lost with their worker since the last clear. They cost no try, but there is a bound.
    lost integer not null default 0,
    -- Upstream task instances by what became of them. `pending` reaches zero when all are final.
    pending integer not null,
    ok integer not null default 0,
    failed integer not null default 0,
    upstream_failed integer not null default 0,
    skipped integer not null default 0,
    state task_state not null,
    sleep_reason sleep_reason,
    queued_at timestamptz,
    started_at timestamptz,
    finished_at timestamptz,
    constraint task_instance_key unique (run_id, ordinal, map_index),
    constraint task_instance_counters_not_negative
        check (pending >= 0 and ok >= 0 and failed >= 0 and upstream_failed >= 0 and skipped >= 0),
    constraint task_instance_worker_matches_state check ((state = 'running') = (worker_id is not null)),
    constraint task_instance_sleep_matches_state check ((state = 'sleeping') = (sleep_reason is not null)),
    constraint task_instance_finished_matches_state check (
        (state in ('success', 'failed', 'skipped', 'upstream_failed', 'cancelled')) = (finished_at is not null))
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

-- What may be claimed now. Rebuilt from task_instance where state = 'queued'.
create table ready (
    instance_id bigint constraint ready_pkey primary key,
    run_id bigint not null,
    pool text not null,
    queue text not null,
    priority integer not null,
    slots integer not null,
    ready_at timestamptz not null default clock_timestamp()
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
create index ready_claim_idx on ready (pool, queue, priority desc, instance_id);

-- Who holds how many slots of a pool that has a limit. Written by the claim under a lock on the pool's row, taken back
-- by whoever ends the execution; the sum is what is in use, so there is no counter that could be wrong.
create table pool_use (
    instance_id bigint constraint pool_use_pkey primary key,
    pool text not null,
    slots integer not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
create index pool_use_pool_idx on pool_use (pool);

-- What wakes by the clock. Rebuilt from task_instance where state = 'sleeping'.
create table sleeper (
    instance_id bigint constraint sleeper_pkey primary key,
    run_id bigint not null,
    wake_at timestamptz not null,
    -- What it waits for, for people.
    reason text not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
create index sleeper_wake_at_idx on sleeper (wake_at);

-- One row per execution of a try, written when it ends. Append only. A try that slept has several rows.
create table try (
    instance_id bigint not null,
    epoch integer not null,
    try_number integer not null,
    worker_id bigint not null,
    started_at timestamptz not null,
    finished_at timestamptz not null default clock_timestamp(),
    -- NULL when the execution ended in sleep.
    outcome try_outcome,
    reason text,
    hint text,
    failure_class text,
    exit_code integer,
    constraint try_pkey primary key (instance_id, epoch)
);

-- What a task answered, for templates downstream and for people. One per task instance, the last success.
create table output (
    instance_id bigint constraint output_pkey primary key,
    output jsonb not null
);
-- What the templates of a try became.
create table rendered (
    instance_id bigint not null,
    try_number integer not null,
    rendered jsonb not null,
    constraint rendered_pkey primary key (instance_id, try_number)
);
-- What a sleeping try wants to find when it is claimed again.
create table resume (
    instance_id bigint constraint resume_pkey primary key,
    resume jsonb not null
);
create table log_line (
    instance_id bigint not null,
    epoch integer not null,
    line integer not null,
    try_number integer not null,
    at timestamptz not null,
    stream text not null constraint log_line_stream_known check (stream in ('stdout', 'stderr', 'task')),
    message text not null,
    constraint log_line_pkey primary key (instance_id, epoch, line)
);

-- Since when a scheduler has been watching without a gap; ticks before that passed unwatched. One row.
create table watch (
    only_row boolean constraint watch_pkey primary key default true constraint watch_only_row check (only_row),
    since timestamptz not null,
    until timestamptz not null
);

-- Durable state of tasks: frozen plans and cursors.
create table frozen (
    instance_id bigint not null constraint frozen_instance_fkey references task_instance on delete cascade,
    name text not null,
    value jsonb not null,
    frozen_at timestamptz not null default clock_timestamp(),
    constraint frozen_pkey primary key (instance_id, name)
);
create table cursor_position (
    cursor text not null,
    partition integer not null,
    next bigint not null,
    moved_by text not null,
    moved_at timestamptz not null default clock_timestamp(),
    constraint cursor_position_pkey primary key (cursor, partition)
);

-- Which plans have moved a cursor, so that a plan whose answer was lost does not move it twice.
create table cursor_plan (
    cursor text not null,
    plan text not null,
    moved_at timestamptz not null default clock_timestamp(),
    constraint cursor_plan_pkey primary key (cursor, plan)
);

-- Who did what to what, for people.
create table audit (
    audit_id bigint generated always as identity constraint audit_pkey primary key,
    at timestamptz not null default clock_timestamp(),
    actor text not null,
    action text not null,
    dag_id text,
    run_id bigint,
    detail jsonb not null default '{}'
);

-- Guards. They forbid and do nothing else; the same tables stand in Rust (`model::state`), and a test compares them.
-- What is always legal stands in the WHEN clause, so that the function is only called for what is not.
create function refuse_transition() returns trigger language plpgsql as $$
begin
    if current_setting('pinwheel.clearing', true) = 'on' then
        if tg_table_name = 'task_instance' and new.state::text = 'waiting'
            and old.state::text in ('success', 'failed', 'skipped', 'upstream_failed', 'cancelled')
            or tg_table_name = 'run' and new.state::text = 'running'
            and old.state::text in ('success', 'failed', 'cancelled') then
            return new;
        end if;
    end if;
    raise exception '% cannot become %', old.state, new.state
        using errcode = 'check_violation', constraint = tg_table_name || '_transition',
        table = tg_table_name, schema = tg_table_schema;
end
$$;

create trigger run_transition before update of state on run for each row
when (old.state is distinct from new.state and (old.state, new.state) not in (
    ('queued', 'running'), ('queued', 'cancelled'),
    ('running', 'success'), ('running', 'failed'), ('running', 'cancelled')))
execute function refuse_transition();

create trigger task_instance_transition before update of state on task_instance for each row
when (old.state is distinct from new.state and (old.state, new.state) not in (
    ('waiting', 'queued'), ('waiting', 'skipped'), ('waiting', 'upstream_failed'), ('waiting', 'cancelled'),
    ('queued', 'running'), ('queued', 'cancelled'),
    ('running', 'queued'), ('running', 'sleeping'), ('running', 'success'), ('running', 'failed'),
    ('running', 'skipped'), ('running', 'cancelled'),
    ('sleeping', 'queued'), ('sleeping', 'cancelled')))
execute function refuse_transition();
