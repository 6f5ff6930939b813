-- Lists what tasks of a run answered, for templates. Lock: none.
select i.ordinal, o.output from task_instance i join output o on o.instance_id = i.instance_id
where i.run_id = $1 and i.ordinal = any($2)
