-- Notes who did what. Lock: none but the new row.
insert into audit (actor, action, dag_id, run_id, detail) values ($1, $2, $3, $4, $5)
