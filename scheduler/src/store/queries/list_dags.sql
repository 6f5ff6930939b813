-- Lists DAGs, or one, with their newest run. Lock: none.
select d.dag_id as "dag_id: DagId", d.file, d.current_version as "version_id!: VersionId", d.description, d.schedule,
    d.paused, d.present, d.next_logical_date, d.next_fire_at, d.last_tick, d.schedule_since,
    l.run_id as "run_id?: RunId", l.state as "state?: RunState", l.logical_date as "logical_date?",
    (select count(*) from run o where o.dag_id = d.dag_id and o.state in ('queued', 'running')) as "open_runs!"
from dag d left join lateral (
    select r.run_id, r.state, r.logical_date from run r where r.dag_id = d.dag_id order by r.run_id desc limit 1) l on true
where d.current_version is not null and ($1::text is null or d.dag_id = $1)
order by d.dag_id
