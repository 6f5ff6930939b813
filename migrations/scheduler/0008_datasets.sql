-- Dataset-aware runs: which tasks of current versions update which datasets, which DAGs wait for which, and the events.
-- Everything here is written under the locks of the DAG rows that wait, so that a set is completed by one at a time.

-- The `outlets` of current versions, for lists; what a task updates when it succeeds is read from its definition.
create table dataset_producer (
    dataset text not null,
    dag_id text not null constraint dataset_producer_dag_fkey references dag,
    task_id text not null,
    constraint dataset_producer_pkey primary key (dataset, dag_id, task_id)
);
create index dataset_producer_dag_idx on dataset_producer (dag_id);

-- Who waits for it, by the current version; the expression over them stands in the definition.
create table dataset_consumer (
    dataset text not null,
    dag_id text not null constraint dataset_consumer_dag_fkey references dag,
    constraint dataset_consumer_pkey primary key (dataset, dag_id)
);
create index dataset_consumer_dag_idx on dataset_consumer (dag_id);

-- One row per update of a dataset. Append only; no foreign keys, as for everything that is written once per task.
create table dataset_event (
    event_id bigint generated always as identity constraint dataset_event_pkey primary key,
    dataset text not null,
    at timestamptz not null,
    -- The task instance whose success it was; NULL when somebody pushed it.
    dag_id text,
    run_id bigint,
    task_id text,
    instance_id bigint,
    pushed_by text,
    -- The task's output, or what was pushed.
    extra jsonb not null default '{}',
    constraint dataset_event_has_a_source check ((instance_id is null) = (pushed_by is not null))
);
create index dataset_event_dataset_idx on dataset_event (dataset, event_id desc);
create index dataset_event_at_idx on dataset_event (at);

-- Events that count for the next run of a DAG. A run takes all that wait for its DAG.
create table dataset_wait (
    dag_id text not null,
    dataset text not null,
    event_id bigint not null,
    constraint dataset_wait_pkey primary key (dag_id, dataset, event_id)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
create index dataset_wait_event_idx on dataset_wait (event_id);

-- The events that made a run.
create table run_dataset_event (
    run_id bigint not null,
    event_id bigint not null,
    constraint run_dataset_event_pkey primary key (run_id, event_id)
);
create index run_dataset_event_event_idx on run_dataset_event (event_id);
