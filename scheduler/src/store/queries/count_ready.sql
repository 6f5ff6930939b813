-- Counts what may be claimed now, by queue, for metrics. Lock: none.
select queue, count(*) as "tasks!" from ready where not parked group by queue order by queue limit 1000
