-- Takes task instances that have been queued for too long out of what may be claimed. Lock: their ready rows; the run is locked already.
delete from ready where instance_id = any($1::bigint[]) and expires_at <= clock_timestamp() + $2::interval
returning instance_id as "instance_id: InstanceId"
