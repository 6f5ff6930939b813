-- Reads the groups of a stream's last events. Takes no lock.
select window_name, group_key, events, share::double precision as share, place
from live.window_top
where stream = $1
order by window_name, place, group_key
limit $2
