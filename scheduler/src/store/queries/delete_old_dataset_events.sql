-- Removes events from before $1 that neither wait nor made a run that is still there, at most $2. Lock: these rows with SKIP LOCKED.
delete from dataset_event where event_id = any (array(
    select e.event_id from dataset_event e
    where e.at < $1 and not exists (select from dataset_wait w where w.event_id = e.event_id)
        and not exists (select from run_dataset_event m where m.event_id = e.event_id)
    order by e.at limit $2 for update skip locked))
