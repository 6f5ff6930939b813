-- Pins a run to another version of its DAG, with params that fit it. Lock: the run row, locked already, and its params.
with given as (
    insert into run_params (run_id, params) select $1, $3::jsonb where $3::jsonb <> '{}'
    on conflict (run_id) do update set params = excluded.params
)
update run set version_id = $2 where run_id = $1
