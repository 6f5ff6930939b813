-- What a schedule has decided is remembered by the tick, not by the logical date: an edited schedule goes on from there, so
-- its first run works on what no run has worked on yet. And what an overlap policy did stays visible.

-- The tick of a run is the end of its data interval; where the run is gone, the next logical date is the same instant.
update dag d set last_logical_date = coalesce(
    (select r.data_interval_end from run r
     where r.dag_id = d.dag_id and r.logical_date = d.last_logical_date and r.kind = 'scheduled'),
    greatest(d.next_logical_date, d.last_logical_date))
where d.last_logical_date is not null;
-- The last tick about which the schedule has decided; it looks at no earlier one again.
alter table dag rename column last_logical_date to last_tick;

-- Why a run is in its state, where its tasks do not say so: it was overtaken, marked, or took too long.
alter table run add column reason text;

-- Ticks that made no run because of `overlap = "skip"`: one row for each stretch without a run between.
create table skipped_tick (
    dag_id text not null constraint skipped_tick_dag_fkey references dag,
    -- The last of them.
    last_tick timestamptz not null,
    first_tick timestamptz not null,
    ticks bigint not null constraint skipped_tick_ticks_positive check (ticks > 0),
    -- Runs that were queued or running when the last one came due, and how many may.
    open_runs integer not null,
    max_active_runs integer not null,
    skipped_at timestamptz not null default clock_timestamp(),
    constraint skipped_tick_pkey primary key (dag_id, last_tick),
    constraint skipped_tick_ordered check (first_tick <= last_tick)
);
