-- Lets this transaction, and only this one, take final states back. Lock: none.
select set_config('pinwheel.clearing', 'on', true) as "set!"
