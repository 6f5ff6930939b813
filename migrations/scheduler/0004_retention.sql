-- What retention and the check of the database stand on.

-- A version that no run refers to is removed after a while. The check of the constraint then reads the runs of that DAG
-- by `run_dag_idx`; by `version_id` alone it would read all of `run`, and an index for it would be paid by every run.
alter table dag_version add constraint dag_version_of_dag_key unique (dag_id, version_id);
alter table run drop constraint run_version_fkey;
alter table run add constraint run_version_fkey
    foreign key (dag_id, version_id) references dag_version (dag_id, version_id);

-- Written once, removed by retention. The defaults let a fifth of a table be dead before anyone cleans it, and leave rows
-- unfrozen until all of a large table has to be frozen at once; a twentieth is a few minutes of work, often.
alter table try set (
    autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_vacuum_insert_threshold = 20000,
    autovacuum_analyze_scale_factor = 0.05, autovacuum_analyze_threshold = 5000);
alter table log_line set (
    autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_vacuum_insert_threshold = 20000,
    autovacuum_analyze_scale_factor = 0.05, autovacuum_analyze_threshold = 5000);
-- Large values of these two live in their TOAST tables.
alter table output set (
    autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_vacuum_insert_threshold = 20000,
    autovacuum_analyze_scale_factor = 0.05, autovacuum_analyze_threshold = 5000,
    toast.autovacuum_vacuum_scale_factor = 0.05, toast.autovacuum_vacuum_threshold = 5000);
alter table rendered set (
    autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_vacuum_insert_threshold = 20000,
    autovacuum_analyze_scale_factor = 0.05, autovacuum_analyze_threshold = 5000,
    toast.autovacuum_vacuum_scale_factor = 0.05, toast.autovacuum_vacuum_threshold = 5000);

-- The gates that a task instance has to pass. 0002 makes it in every database that is newer than its first draft.
alter table task_instance add column if not exists gates text[];
