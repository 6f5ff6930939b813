-- Stores what people are told of DAGs of which no run has succeeded for too long. Lock: none but the new rows.
insert into notification (dag_id, event, channel, cool_down, detail)
select h.dag_id, 'deadline', n.channel, n.cool_down * interval '1 second',
    jsonb_strip_nulls(jsonb_build_object('no_success_for', extract(epoch from h.no_success_for),
        'last_success_at', h.last_success_at))
from unnest($1::text[], $2::text[], $3::double precision[]) as n (dag_id, channel, cool_down)
join dag_health h on h.dag_id = n.dag_id
