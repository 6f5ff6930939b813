-- Waits for every transaction that has claimed or ended an execution, and keeps others from it until this one ends. Lock: the table pool_use SHARE ROW EXCLUSIVE, after the pool row.
-- A statement locks its tables before it takes its snapshot: a claim that waits here sees the limit when it goes on.
lock table pool_use in share row exclusive mode
