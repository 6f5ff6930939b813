-- Forgets workers of a stream that have said nothing for an hour. Locks their rows.
delete from stream_status
where stream = $1 and owner <> $2 and updated_at < now() - interval '1 hour'
