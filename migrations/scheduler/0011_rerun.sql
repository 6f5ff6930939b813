-- Time-outs of runs and of what is queued, marks, reruns by another version, outputs of earlier tries, notes.

-- The longest a task may be queued, in seconds; NULL for no limit.
alter table task add column queue_timeout double precision
    constraint task_queue_timeout_positive check (queue_timeout > 0);
-- When it has been queued for too long; goes with the row, so nothing has to be taken back when it is claimed.
alter table ready add column expires_at timestamptz;
create index ready_expires_at_idx on ready (expires_at) where expires_at is not null;

-- When a run has taken too long. The row of a run that ended earlier stays until then, and means nothing.
create table run_limit (
    run_id bigint constraint run_limit_pkey primary key
        constraint run_limit_run_fkey references run on delete cascade,
    due_at timestamptz not null
);
create index run_limit_due_at_idx on run_limit (due_at);

-- Why a task is in its state, where no try says so: a person marked it, or it took too long.
alter table task_instance add column reason text;

-- What earlier successes answered. The last one stands in `output`; a clear moves it here.
create table past_output (
    instance_id bigint not null,
    try_number integer not null,
    output jsonb not null,
    constraint past_output_pkey primary key (instance_id, try_number)
);

-- Task instances whose task is not in the version that their run has moved to. They keep their row, with an ordinal below
-- zero, which no task of a version has; so whatever goes by the tasks of a version passes them over.
create table removed_task (
    run_id bigint not null constraint removed_task_run_fkey references run on delete cascade,
    ordinal integer not null constraint removed_task_ordinal_negative check (ordinal < 0),
    -- The last version that had it, and its place there.
    version_id bigint not null,
    version_ordinal integer not null,
    task_id text not null,
    kind text not null,
    constraint removed_task_pkey primary key (run_id, ordinal)
);

-- What people write beside runs and task instances: one note each.
create table note (
    run_id bigint not null constraint note_run_fkey references run on delete cascade,
    -- 0 for the run itself.
    instance_id bigint not null default 0,
    note text not null constraint note_not_empty check (note <> ''),
    written_by text not null,
    written_at timestamptz not null default clock_timestamp(),
    constraint note_pkey primary key (run_id, instance_id)
);

-- A person may also say how something ended.
create or replace function refuse_transition() returns trigger language plpgsql as $$
begin
    if current_setting('pinwheel.clearing', true) = 'on' then
        if tg_table_name = 'task_instance' and (
                new.state::text = 'waiting'
                and old.state::text in ('success', 'failed', 'skipped', 'upstream_failed', 'cancelled')
                or new.state::text in ('success', 'failed'))
            or tg_table_name = 'run' and (
                new.state::text = 'running' and old.state::text in ('success', 'failed', 'cancelled')
                or new.state::text = 'failed' and old.state::text in ('success', 'cancelled')) then
            return new;
        end if;
    end if;
    raise exception '% cannot become %', old.state, new.state
        using errcode = 'check_violation', constraint = tg_table_name || '_transition',
        table = tg_table_name, schema = tg_table_schema;
end
$$;

-- What takes too long fails in the queue, and is skipped with its run.
drop trigger task_instance_transition on task_instance;
create trigger task_instance_transition before update of state on task_instance for each row
when (old.state is distinct from new.state and (old.state, new.state) not in (
    ('waiting', 'queued'), ('waiting', 'running'), ('queued', 'running'), ('running', 'success'),
    ('waiting', 'skipped'), ('waiting', 'upstream_failed'), ('waiting', 'cancelled'),
    ('queued', 'cancelled'), ('queued', 'failed'), ('queued', 'skipped'),
    ('running', 'queued'), ('running', 'sleeping'), ('running', 'failed'),
    ('running', 'skipped'), ('running', 'cancelled'),
    ('sleeping', 'queued'), ('sleeping', 'cancelled'), ('sleeping', 'skipped')))
execute function refuse_transition();

-- Who did what to a run.
create index audit_run_idx on audit (run_id, audit_id desc) where run_id is not null;
