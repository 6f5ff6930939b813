-- Makes sure that gates are there and have this size. Lock: gate rows that change; one that stands as it should is not touched.
insert into gate (gate, slots)
select w.gate, w.slots from unnest($1::text[], $2::integer[]) as w (gate, slots)
where not exists (select from gate g where g.gate = w.gate and g.slots = w.slots
    and g.touched_at > clock_timestamp() - interval '10 minutes')
order by w.gate
on conflict (gate) do update set slots = excluded.slots, touched_at = clock_timestamp()
