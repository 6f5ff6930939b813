-- The schema `live`: what the streaming worker knows. Runs with search_path = live. The tables of posts themselves
-- follow their dataset's columns and are made by the worker.

-- Where each partition stands. The truth for offsets: Kafka's own group offsets are never read. Every micro-batch is one
-- transaction that moves `next_offset` under the guard of `generation` and its old value.
create table stream_offset (
    stream text not null,
    topic text not null,
    partition integer not null constraint stream_offset_partition_not_negative check (partition >= 0),
    next_offset bigint not null constraint stream_offset_next_not_negative check (next_offset >= 0),
    -- Raised by one whenever a worker takes the partition; what an earlier owner still sends then hits no row.
    generation bigint not null constraint stream_offset_generation_positive check (generation > 0),
    owner text not null,
    -- The event time that the partition has passed; never falls. NULL before the first event with a time.
    watermark timestamptz,
    events bigint not null default 0,
    dead_letters bigint not null default 0,
    late bigint not null default 0,
    updated_at timestamptz not null default now(),
    constraint stream_offset_pkey primary key (stream, topic, partition)
) with (fillfactor = 50);

-- Tumbling event-time windows. Sliding ones are sums of them.
create table window_count (
    stream text not null,
    window_name text not null,
    window_start timestamptz not null,
    window_end timestamptz not null constraint window_count_end_after_start check (window_end > window_start),
    -- The value of the window's `by` column; empty where it is NULL.
    group_key text not null,
    events bigint not null,
    -- Of `events`, those that came after the watermark had passed the window's end.
    late bigint not null default 0,
    -- The followed column over the events that have it.
    followed bigint not null default 0,
    followed_sum numeric not null default 0,
    followed_max bigint,
    -- Raised by every batch that changes the row.
    revision bigint not null default 1,
    constraint window_count_pkey primary key (stream, window_name, window_start, group_key)
) with (fillfactor = 70);

-- What could not become a row, with its raw bytes.
create table dead_letter (
    stream text not null,
    topic text not null,
    partition integer not null,
    "offset" bigint not null,
    event_at timestamptz,
    -- `unreadable`: no row at all; `contract`: a readable row that breaks the dataset's contract.
    stage text not null,
    rule text not null,
    field text,
    detail text not null,
    key bytea,
    -- NULL: the message had no value.
    raw bytea,
    recorded_at timestamptz not null default now(),
    constraint dead_letter_place_key unique (stream, topic, partition, "offset")
);

-- Offsets that were gone before they could be read, skipped because the stream says `on_gap = "skip"`.
create table stream_gap (
    stream text not null,
    topic text not null,
    partition integer not null,
    from_offset bigint not null,
    to_offset bigint not null constraint stream_gap_not_empty check (to_offset > from_offset),
    recorded_at timestamptz not null default now(),
    constraint stream_gap_pkey primary key (stream, topic, partition, from_offset)
);

-- What a stream's worker last said of itself, for pages.
create table stream_status (
    stream text constraint stream_status_pkey primary key,
    topic text not null,
    dataset text not null,
    table_name text not null,
    owner text not null,
    generation bigint not null,
    state text not null,
    problem text,
    events_per_second double precision not null,
    -- One object per partition: partition, next_offset, end_offset, lag, watermark.
    partitions jsonb not null,
    last_commit timestamptz,
    updated_at timestamptz not null default now()
) with (fillfactor = 50);
