-- Makes sure that a DAG has a row. Lock: none but the new row.
insert into dag (dag_id, file, present) values ($1, $2, false) on conflict (dag_id) do nothing
