-- Locks gates in order, so that nobody parks behind them what is just being let out. Lock: these gate rows.
select gate from gate where gate = any($1::text[]) order by gate for no key update
