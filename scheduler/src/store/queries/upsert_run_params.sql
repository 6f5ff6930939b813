-- Gives a run other params. Lock: the params row; the run is locked already.
insert into run_params (run_id, params) values ($1, $2)
on conflict (run_id) do update set params = excluded.params
