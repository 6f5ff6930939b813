-- Reads a stream's newest windows. Takes no lock.
select window_name, window_start, window_end, group_key, events, late, followed, followed_sum::text as followed_sum, followed_max
from live.window_count
where stream = $1
order by window_start desc, window_name, events desc, group_key
limit $2
