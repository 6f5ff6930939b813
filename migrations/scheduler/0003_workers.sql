-- What people see and steer of workers and pools.

alter table pool
    -- A person has deleted it. The row stays, without a limit: a run of an older version may still name the pool, and
    -- a claim looks for work by these rows, so no task can wait for a pool that is not there. Lists leave it out until
    -- it is named or set again.
    add column deleted boolean not null default false;

-- The row of a worker is written with every heartbeat: what is added is fixed-width, but for the labels, and nothing is
-- indexed, so that every heartbeat stays a HOT update.
alter table worker
    -- From its settings, for people.
    add column labels jsonb not null default '{}',
    -- The last heartbeat, and since when it claims nothing more because it was asked to stop.
    add column seen_at timestamptz not null default clock_timestamp(),
    add column stopping_at timestamptz,
    -- As the process measured them at its last heartbeat; NULL where the system does not tell. CPU is in cores: 1.5 is
    -- one and a half of them, since the heartbeat before.
    add column load_average real,
    add column memory_bytes bigint,
    add column cpu_cores real;
