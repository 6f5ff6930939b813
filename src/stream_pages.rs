//! What the pages show of streams, read from the schema `live`.

use async_trait::async_trait;
use pinwheel_streaming::live;
use pinwheel_web::{
    Stream, StreamDeadLetter, StreamPartition, StreamTop, StreamWindow, StreamWorker, Streams,
};
use sqlx::PgPool;

/// Windows shown of each name.
const WINDOWS: i32 = 3;
/// Groups shown of windows over the last events.
const GROUPS: i64 = 200;
/// Dead letters shown of each stream.
const DEAD_LETTERS: i64 = 10;

/// Reads the live view for the pages and the API.
pub(crate) struct LiveStreams(pub(crate) PgPool);

#[async_trait]
impl Streams for LiveStreams {
    async fn streams(&self) -> Result<Vec<Stream>, String> {
        read(&self.0).await.map_err(|error| error.to_string())
    }
}

async fn read(pool: &PgPool) -> Result<Vec<Stream>, sqlx::Error> {
    let mut streams = Vec::new();
    for row in live::streams(pool).await? {
        let windows = live::windows(pool, &row.stream, WINDOWS).await?;
        let top = live::top(pool, &row.stream, GROUPS).await?;
        let dead = live::dead_letters(pool, &row.stream, DEAD_LETTERS).await?;
        streams.push(Stream {
            lag: row.lag(),
            stream: row.stream,
            topic: row.topic,
            dataset: row.dataset,
            table: row.table_name,
            state: row.state,
            problem: row.problem,
            events_per_second: row.events_per_second,
            watermark: row.watermark,
            last_commit: row.last_commit,
            events: row.events,
            dead_letters: row.dead_letters,
            late: row.late,
            dropped: row.dropped,
            workers: row.workers.into_iter().map(worker).collect(),
            partitions: row.partitions.into_iter().map(partition).collect(),
            windows: windows.into_iter().map(window).collect(),
            top: top
                .into_iter()
                .map(|row| StreamTop {
                    window: row.window_name,
                    place: row.place,
                    group: row.group_key,
                    events: row.events,
                    share: row.share,
                })
                .collect(),
            newest_dead_letters: dead
                .into_iter()
                .map(|row| StreamDeadLetter {
                    partition: row.partition,
                    offset: row.offset,
                    at: row.event_at,
                    rule: row.rule,
                    detail: row.detail,
                })
                .collect(),
        });
    }
    Ok(streams)
}

fn worker(row: live::WorkerRow) -> StreamWorker {
    StreamWorker {
        state: row.state().to_owned(),
        worker: row.owner,
        problem: row.problem,
        partitions: row
            .partitions
            .iter()
            .map(|partition| partition.partition)
            .collect(),
        events_per_second: row.events_per_second,
        updated_at: row.updated_at,
    }
}

fn partition(row: live::PartitionRow) -> StreamPartition {
    StreamPartition {
        partition: row.partition,
        worker: row.owner,
        generation: row.generation,
        next_offset: row.next_offset,
        lag: row.lag,
        watermark: row.watermark,
        idle_since: row.idle_since,
        events: row.events,
        dead_letters: row.dead_letters,
        late: row.late,
    }
}

fn window(row: live::WindowRow) -> StreamWindow {
    StreamWindow {
        window: row.window_name,
        start: row.window_start,
        end: row.window_end,
        group: row.group_key,
        events: row.events,
        share: row.share,
        late: row.late,
        mean: row.followed_mean,
        maximum: row.followed_max,
        error_rate: row.error_rate,
        is_final: row.is_final,
    }
}
