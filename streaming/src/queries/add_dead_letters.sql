-- Keeps what could not become a row, once per place. Locks nothing that another worker of the stream could hold.
insert into dead_letter (stream, topic, partition, "offset", event_at, stage, rule, field, detail, key, raw)
select $1, $2, dead.partition, dead."offset", dead.event_at, dead.stage, dead.rule, dead.field, dead.detail, dead.key, dead.raw
from unnest($3::integer[], $4::bigint[], $5::timestamptz[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bytea[], $11::bytea[])
    as dead (partition, "offset", event_at, stage, rule, field, detail, key, raw)
order by dead.partition, dead."offset"
on conflict on constraint dead_letter_place_key do nothing
