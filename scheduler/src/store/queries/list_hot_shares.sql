-- Lists how the hot tables were updated since statistics began, for benchmarks. Lock: none.
select relname::text as "table!", n_tup_upd as "updates!", n_tup_hot_upd as "hot!" from pg_stat_user_tables
where relname in ('run', 'task_instance', 'worker') order by relname
