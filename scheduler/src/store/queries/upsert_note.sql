-- Writes the note of a run or a task instance. Lock: the row, and the run FOR KEY SHARE.
insert into note (run_id, instance_id, note, written_by) values ($1, $2, $3, $4)
on conflict (run_id, instance_id) do update
    set note = excluded.note, written_by = excluded.written_by, written_at = clock_timestamp()
