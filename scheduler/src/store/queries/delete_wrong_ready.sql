-- Takes out what may not be claimed or does not sleep, for a rebuild. Lock: these rows.
with unready as (
    delete from ready r where not exists (
        select from task_instance i where i.instance_id = r.instance_id and i.state = 'queued')
    returning r.instance_id
), unparked as (
    delete from parked p where not exists (
        select from task_instance i where i.instance_id = p.instance_id and i.state = 'queued')
), awake as (
    delete from sleeper s where not exists (
        select from task_instance i where i.instance_id = s.instance_id and i.state = 'sleeping')
    returning s.instance_id
)
select (select count(*) from unready) + (select count(*) from awake) as "count!"
