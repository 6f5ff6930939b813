-- Removes the oldest entries of the audit trail that were made before $1, at most $2. Lock: these rows with SKIP LOCKED.
delete from audit where audit_id = any (array(
    select o.audit_id from (select audit_id, at from audit order by audit_id limit $2 for update skip locked) o
    where o.at < $1))
