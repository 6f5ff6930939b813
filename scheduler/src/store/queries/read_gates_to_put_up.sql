-- Says whether any of these gates is missing, has another size, or was not touched for a while. Lock: none.
select exists (
    select from unnest($1::text[], $2::integer[]) as w (gate, slots)
    where not exists (select from gate g where g.gate = w.gate and g.slots = w.slots
        and g.touched_at > clock_timestamp() - interval '10 minutes')) as "exists!"
