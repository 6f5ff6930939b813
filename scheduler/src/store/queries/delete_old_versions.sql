-- Removes versions that were made before $1, are not current and have no run, at most $2. Lock: these version rows and their DAG rows with SKIP LOCKED, so that nobody publishes one of them meanwhile.
delete from dag_version where version_id = any (array(
    select v.version_id from dag_version v join dag d on d.dag_id = v.dag_id
    where v.created_at < $1 and d.current_version is distinct from v.version_id
        and not exists (select from run r where r.dag_id = v.dag_id and r.version_id = v.version_id)
    order by v.version_id limit $2 for update of v skip locked for no key update of d skip locked))
