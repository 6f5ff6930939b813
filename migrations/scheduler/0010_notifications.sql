-- Deadlines, and what people are told: each notification is a row of the transaction that made it true. Schedulers gather
-- rows into messages and deliver them. None of this is touched by a DAG without `[[deadline]]`, `[[notify]]` and
-- `no_success_for`.

-- The deadlines of a version, by their place in the file, so that a run gets its own with the statement that makes it.
create table deadline (
    version_id bigint not null constraint deadline_version_fkey references dag_version on delete cascade,
    deadline integer not null,
    name text not null,
    origin text not null constraint deadline_origin_known check (origin in ('scheduled', 'queued', 'started')),
    after interval not null,
    -- The task that must be done by then; NULL for the run.
    ordinal integer,
    constraint deadline_pkey primary key (version_id, deadline)
);

-- The deadlines of runs. One is settled once: `met` when the run or the task ended before, `cancelled` with its run.
create table run_deadline (
    run_id bigint not null,
    deadline integer not null,
    name text not null,
    ordinal integer,
    due_at timestamptz not null,
    state text not null default 'pending'
        constraint run_deadline_state_known check (state in ('pending', 'met', 'missed', 'cancelled')),
    settled_at timestamptz,
    constraint run_deadline_pkey primary key (run_id, deadline),
    constraint run_deadline_settled_matches_state check ((state = 'pending') = (settled_at is null))
);
create index run_deadline_due_idx on run_deadline (due_at) where state = 'pending';

-- How DAGs that tell people something are doing. Written under the lock of the DAG row, or with SKIP LOCKED.
create table dag_health (
    dag_id text constraint dag_health_pkey primary key constraint dag_health_dag_fkey references dag,
    -- The run that closed last has failed.
    failing boolean not null default false,
    last_success_at timestamptz,
    -- What the file says, when the next success is due by it, and since when one is overdue.
    no_success_for interval,
    success_due_at timestamptz,
    overdue_since timestamptz
);
create index dag_health_due_idx on dag_health (success_due_at) where success_due_at is not null;

-- The same of tasks whose recovery somebody wants to hear of.
create table task_health (
    dag_id text not null,
    task_id text not null,
    failing boolean not null,
    constraint task_health_pkey primary key (dag_id, task_id)
);

-- Something that somebody is told. Append only, but for its way into a message.
create table notification (
    notification_id bigint generated always as identity constraint notification_pkey primary key,
    dag_id text not null,
    event text not null
        constraint notification_event_known check (event in ('failure', 'retry', 'success', 'deadline', 'recovery')),
    channel text not null,
    run_id bigint,
    happened_at timestamptz not null default clock_timestamp(),
    cool_down interval not null,
    detail jsonb not null,
    -- When it may go into a message; NULL once it is in one.
    gather_at timestamptz default clock_timestamp(),
    message_id bigint,
    constraint notification_gathered_once check ((gather_at is null) = (message_id is not null))
);
create index notification_gather_idx on notification (gather_at) where gather_at is not null;
create index notification_lane_idx on notification (dag_id, event, channel) where gather_at is not null;
create index notification_run_idx on notification (run_id) where run_id is not null;
create index notification_message_idx on notification (message_id) where message_id is not null;

-- Until when notifications of the same DAG, event and channel wait to go out as one message. Only schedulers touch it.
create table notify_lane (
    dag_id text not null,
    event text not null,
    channel text not null,
    quiet_until timestamptz,
    constraint notify_lane_pkey primary key (dag_id, event, channel)
);

-- What is delivered: one message for one or many notifications.
create table message (
    message_id bigint generated always as identity constraint message_pkey primary key,
    dag_id text not null,
    event text not null,
    channel text not null,
    notifications integer not null,
    made_at timestamptz not null default clock_timestamp(),
    -- When it is tried next, and while it is tried the end of the lease; NULL when it is delivered or given up.
    next_at timestamptz,
    attempts integer not null default 0,
    give_up_at timestamptz not null,
    delivered_at timestamptz,
    given_up_at timestamptz,
    last_error text,
    constraint message_over_once check (
        (next_at is null) = (delivered_at is not null or given_up_at is not null)
        and (delivered_at is null or given_up_at is null))
);
create index message_next_idx on message (next_at) where next_at is not null;

-- The channels that schedulers have in their settings, and how delivery goes.
create table notify_channel (
    channel text constraint notify_channel_pkey primary key,
    -- NULL: a DAG file names it and no scheduler knows it.
    kind text,
    -- Where it leads, without anything secret.
    target text not null default '',
    seen_at timestamptz,
    delivered_at timestamptz,
    failed_at timestamptz,
    last_error text
);
