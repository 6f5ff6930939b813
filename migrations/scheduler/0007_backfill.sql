-- Backfills: a range of logical dates of a DAG that is run on purpose, with a concurrency of its own.

create type backfill_state as enum ('running', 'paused', 'stopped', 'success', 'failed', 'cancelled');
create type reprocess as enum ('none', 'failed', 'all');
-- What became of a date: its turn has not come; a run was made for it; its run was cleared; nothing was to do; the
-- backfill was cancelled before its turn came.
create type backfill_date_state as enum ('waiting', 'made', 'cleared', 'left', 'cancelled');

create table backfill (
    backfill_id bigint generated always as identity constraint backfill_pkey primary key,
    dag_id text not null constraint backfill_dag_fkey references dag,
    state backfill_state not null default 'running',
    -- The range as it was asked for, both ends inclusive.
    from_date timestamptz not null,
    to_date timestamptz not null,
    reprocess reprocess not null,
    is_backwards boolean not null,
    stops_on_failure boolean not null,
    max_active_runs integer not null constraint backfill_max_active_runs_positive check (max_active_runs > 0),
    -- As they were given; the version of each run fills its defaults in.
    params jsonb not null,
    -- How many of its runs have begun and not ended since.
    open integer not null default 0 constraint backfill_open_not_negative check (open >= 0),
    -- A finisher could not begin what is next, because somebody held the run of that date: a scheduler does it.
    look_at timestamptz,
    created_by text not null,
    created_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    constraint backfill_range_ordered check (from_date <= to_date),
    constraint backfill_finished_matches_state check ((state in ('success', 'failed', 'cancelled')) = (finished_at is not null))
);
create index backfill_dag_idx on backfill (dag_id, backfill_id desc);
-- A DAG has one at a time.
create unique index backfill_open_key on backfill (dag_id) where finished_at is null;
create index backfill_look_at_idx on backfill (look_at) where look_at is not null;

-- Its dates, numbered in the order in which they run. A run is made, or cleared, when the turn of its date comes: until
-- then a cancelled or paused backfill has changed nothing.
create table backfill_date (
    backfill_id bigint not null constraint backfill_date_backfill_fkey references backfill on delete cascade,
    position integer not null,
    logical_date timestamptz not null,
    data_interval_start timestamptz not null,
    data_interval_end timestamptz not null,
    state backfill_date_state not null default 'waiting',
    -- Its run, as it was when the date was decided; retention may have removed it since.
    run_id bigint,
    -- Its run has begun for this backfill and not ended since.
    is_open boolean not null default false,
    constraint backfill_date_pkey primary key (backfill_id, position),
    constraint backfill_date_once_key unique (backfill_id, logical_date)
);
create index backfill_date_waiting_idx on backfill_date (backfill_id, position) where state = 'waiting';
create index backfill_date_open_idx on backfill_date (backfill_id, run_id) where is_open;

-- Whoever starts runs has locked this row: no other row is read for a DAG that is not backfilled.
alter table dag add column open_backfill bigint;
-- The backfill that made a run or cleared it last. Such a run does not count for the DAG's max_active_runs.
alter table run add column backfill_id bigint;

-- A logical date of a schedule has one run, whether the schedule or a backfill made it.
alter table run drop constraint run_once_key;
create unique index run_once_key
    on run (dag_id, logical_date, (case when kind = 'backfill' then 'scheduled'::run_kind else kind end));
