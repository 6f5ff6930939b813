-- Reads whether a run has a task that its version does not have any more. Lock: none.
select m.ordinal from removed_task m join task_instance i on i.run_id = m.run_id and i.ordinal = m.ordinal
where m.run_id = $1 and m.task_id = $2 and i.map_index = $3 order by m.ordinal limit 1
