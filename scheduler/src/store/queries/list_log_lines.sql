-- Lists lines of a log after a position. Lock: none.
select epoch, line, try_number, at, stream, message from log_line
where instance_id = $1 and (epoch, line) > ($2, $3) order by epoch, line limit $4
