-- Notes that a plan moves a cursor; nothing is inserted when it has done so before. Lock: the new row, which makes a second call of the same plan wait.
insert into cursor_plan (cursor, plan) values ($1, $2) on conflict (cursor, plan) do nothing
