-- Gives this transaction, and only this one, other time-outs than people's statements have: $1 for a statement, $2 for a lock. Lock: none.
select set_config('statement_timeout', $1, true) as "statement!", set_config('lock_timeout', $2, true) as "lock!"
