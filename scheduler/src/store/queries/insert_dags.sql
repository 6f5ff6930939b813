-- Makes sure that DAGs have a row. Lock: none but the new rows.
insert into dag (dag_id, file, present)
select d.dag_id, d.file, false from unnest($1::text[], $2::text[]) as d (dag_id, file) order by d.dag_id
on conflict (dag_id) do nothing
