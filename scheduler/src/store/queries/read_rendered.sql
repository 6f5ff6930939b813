-- Reads what the templates of a try became. Lock: none.
select rendered from rendered where instance_id = $1 and try_number = $2
