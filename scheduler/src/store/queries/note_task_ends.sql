-- Notes how tasks ended whose recovery somebody wants to hear of; returns those that failed before and have succeeded. Lock: these rows in key order.
with ended as (
    select * from unnest($1::text[], $2::text[], $3::boolean[], $4::bigint[]) as e (dag_id, task_id, failed, instance_id)
), before as materialized (
    select h.dag_id, h.task_id, h.failing from ended e
    join task_health h on h.dag_id = e.dag_id and h.task_id = e.task_id
    order by h.dag_id, h.task_id for no key update of h
), noted as (
    insert into task_health (dag_id, task_id, failing)
    select dag_id, task_id, bool_or(failed) from ended group by dag_id, task_id order by dag_id, task_id
    on conflict (dag_id, task_id) do update set failing = excluded.failing
)
select distinct e.instance_id as "instance_id!: InstanceId"
from ended e join before b on b.dag_id = e.dag_id and b.task_id = e.task_id
where b.failing and not e.failed
