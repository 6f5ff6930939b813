-- Reads the database's time. Lock: none.
select clock_timestamp() as "now!"
