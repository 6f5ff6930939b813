-- Does away with the items of mapped tasks that were cleared with what is above them: their list is made anew. Lock: these task instances; the run is locked already.
-- What each was is kept until there is another list: what it has frozen holds for that item alone.
update task_instance
set map_index = case when map_index = 0 then -1 else -1 - map_index end, gates = null
where run_id = $1 and ordinal = any($2::integer[]) and map_index >= 0 and state = 'waiting'
