-- Stores the deadlines of versions. Lock: none but the new rows.
insert into deadline (version_id, deadline, name, origin, after, ordinal)
select version_id, deadline, name, origin, after * interval '1 second', ordinal
from unnest($1::bigint[], $2::integer[], $3::text[], $4::text[], $5::double precision[], $6::integer[])
    as d (version_id, deadline, name, origin, after, ordinal)
