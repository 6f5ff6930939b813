-- Lists the newest stretches of ticks that made no run. Lock: none.
select first_tick, last_tick, ticks, open_runs, max_active_runs, skipped_at
from skipped_tick where dag_id = $1 order by last_tick desc limit $2
