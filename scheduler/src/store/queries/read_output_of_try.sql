-- Reads what one try of a task instance answered. Lock: none.
select o.output as "output!" from past_output o where o.instance_id = $1 and o.try_number = $2
union all
select o.output from output o join task_instance i on i.instance_id = o.instance_id
where o.instance_id = $1 and i.tries = $2
limit 1
