-- Lists what tasks of a run answered, for templates: of a mapped task what each item answered that succeeded. Lock: none.
select i.ordinal, i.map_index, o.output as "output?"
from task_instance i left join output o on o.instance_id = i.instance_id
where i.run_id = $1 and i.ordinal = any($2) and i.map_index >= -1
    and (o.output is not null or i.map_index >= 0 and i.state = 'success')
order by i.ordinal, i.map_index
