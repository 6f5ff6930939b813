-- Reads how many more may pass each of these gates. Lock: none; the gates are locked already.
select g.gate, g.slots - (select count(*) from gate_use u where u.gate = g.gate)::integer as "free!"
from gate g where g.gate = any($1::text[])
