-- Puts up gates again that are gone. Lock: none but the new rows.
insert into gate (gate, slots)
select w.gate, w.slots from unnest($1::text[], $2::integer[]) as w (gate, slots) order by w.gate
on conflict (gate) do nothing
