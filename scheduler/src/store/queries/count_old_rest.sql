-- Counts what would go besides runs, once the runs are gone of which each DAG keeps its last $3; with $1 null only gates. Lock: none.
select (select count(*) from audit where at < $1::timestamptz) as "audit!",
    (select count(*) from worker where ended_at < $1::timestamptz) as "workers!",
    (select count(*) from dag_version v join dag d on d.dag_id = v.dag_id
        where v.created_at < $1::timestamptz and d.current_version is distinct from v.version_id
            and not exists (select from run r where r.dag_id = v.dag_id and r.version_id = v.version_id
                and (r.finished_at is null or r.finished_at >= $1::timestamptz or r.run_id > coalesce((
                    select l.run_id from run l where l.dag_id = v.dag_id
                    order by l.run_id desc offset $3::bigint limit 1), 0)))) as "versions!",
    (select count(*) from message where coalesce(delivered_at, given_up_at) < $1::timestamptz) as "messages!",
    (select count(*) from gate g where g.touched_at < $2::timestamptz
        and not exists (select from ready y where g.gate = any(y.gates))
        and not exists (select from parked p where p.gate = g.gate)
        and not exists (select from gate_use u where u.gate = g.gate)
        and not exists (select from sleeper s join task_instance i on i.instance_id = s.instance_id
            where g.gate = any(i.gates))) as "gates!",
    (select count(*) from dataset_event e where e.at < $1::timestamptz
        and not exists (select from dataset_wait w where w.event_id = e.event_id)
        and not exists (select from run_dataset_event m join run r on r.run_id = m.run_id
            where m.event_id = e.event_id and (r.finished_at is null or r.finished_at >= $1::timestamptz
                or r.run_id > coalesce((select l.run_id from run l where l.dag_id = r.dag_id
                    order by l.run_id desc offset $3::bigint limit 1), 0)))) as "dataset_events!"
