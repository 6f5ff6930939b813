-- Rings the bell of other processes; only ever outside of other transactions. Lock: the database-wide notification lock at commit.
select pg_notify('pinwheel', $1) as "sent"
