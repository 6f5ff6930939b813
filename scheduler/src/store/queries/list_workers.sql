-- Lists processes of the engine, those that live first: with the lost and the ended ones of the last so many seconds or all, or one by its number. Lock: none.
-- One that ended in good order had its lease until then; the reaper ends those whose lease was over before.
select worker_id as "worker_id: WorkerId", name, version, is_scheduler, queues,
    labels as "labels: Json<BTreeMap<String, String>>", slots, running, started_at,
    seen_at, lease_until, stopping_at, ended_at, load_average, memory_bytes, cpu_cores,
    case when ended_at is null then
        case when lease_until < clock_timestamp() then 'lost' when stopping_at is not null then 'stopping' else 'alive' end
        when lease_until < ended_at then 'lost' else 'ended' end as "state!: WorkerState"
from worker
where (ended_at is null or $1::double precision is null
        or ended_at > clock_timestamp() - $1::double precision * interval '1 second')
    and ($2::bigint is null or worker_id = $2)
order by ended_at is not null, worker_id desc limit 500
