-- Asks Postgres whether it is there. Lock: none.
select 1 as "one!"
