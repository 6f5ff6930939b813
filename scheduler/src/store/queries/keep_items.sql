-- Keeps the items of a mapped task beside its task instances. What one has frozen for another item is forgotten. Lock: these items; the run is locked already.
with item as materialized (
    select i.instance_id, g.item, g.name
    from unnest($3::jsonb[], $4::text[]) with ordinality as g (item, name, place)
    -- Found one by one through the key: rows that were made a moment ago are in no statistics, and a join goes by those.
    cross join lateral (
        select instance_id from task_instance
        where run_id = $1 and ordinal = $2 and map_index = (g.place - 1)::integer offset 0) i
), changed as (
    select i.instance_id from item i
    cross join lateral (select item from map_item where instance_id = i.instance_id offset 0) m
    where m.item <> i.item
), forgotten as (
    delete from frozen where instance_id = any (array(select instance_id from changed))
)
insert into map_item (instance_id, item, name)
select instance_id, item, name from item
on conflict (instance_id) do update set item = excluded.item, name = excluded.name
