-- Pauses a DAG or lets it go on; ticks that passed meanwhile passed unwatched. Lock: the DAG row.
update dag set paused = $2, active_since = case when paused and not $2 then clock_timestamp() else active_since end,
    updated_at = clock_timestamp()
where dag_id = $1
