-- Takes notes of runs to look at again. Lock: these notes with SKIP LOCKED.
with taken as (
    delete from nudge where nudge_id = any (array(
        select nudge_id from nudge order by nudge_id limit $1 for update skip locked))
    returning run_id
)
select distinct run_id as "run_id!: RunId" from taken order by 1
