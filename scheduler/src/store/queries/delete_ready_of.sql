-- Takes task instances out of what may be claimed. Lock: their ready rows, before any task instance, as a claim does.
-- In a statement of its own after the sleepers: one that was just woken is only seen by a snapshot that is newer.
delete from ready where instance_id = any($1::bigint[])
