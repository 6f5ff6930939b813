//! Why a worker stops that was not asked to.

use rdkafka::error::KafkaError;

/// Why a worker stopped that was not asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream does not fit its dataset.
    #[error("stream `{stream}` cannot run: {problem}")]
    Plan {
        /// The stream.
        stream: String,
        /// What does not fit.
        problem: String,
    },
    /// The panes of a window that are kept have another length than the file says.
    #[error(
        "stream `{stream}` has kept window `{window}` with another `slide`: give the window another name, and its counts begin anew"
    )]
    Window {
        /// The stream.
        stream: String,
        /// The window.
        window: String,
    },
    /// The topic of dead letters cannot be used.
    #[error("stream `{stream}`: {problem}")]
    DeadLetters {
        /// The stream.
        stream: String,
        /// What is wrong.
        problem: String,
    },
    /// Another worker took the partitions, and the stream has no group.
    #[error(
        "another worker has taken partition {partition} of stream `{stream}` (generation {generation})"
    )]
    Fenced {
        /// The stream.
        stream: String,
        /// One of the partitions.
        partition: i32,
        /// The generation that the other worker holds.
        generation: i64,
    },
    /// The broker has deleted offsets that were not read yet.
    #[error(
        "offsets {from} to {to} of `{topic}` partition {partition} are gone before stream `{stream}` read them; \
         set `on_gap = \"skip\"` in the stream file to record the gap and go on behind it"
    )]
    Gap {
        /// The stream.
        stream: String,
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The first offset that is gone.
        from: i64,
        /// The last offset that is gone.
        to: i64,
    },
    /// The partition ends before the stored offset: the topic was deleted and made anew, or lost its tail.
    #[error(
        "`{topic}` partition {partition} ends at offset {end}, but stream `{stream}` has read up to {next}: the topic was made anew or lost \
         records; give the stream another `id` to read it from the beginning"
    )]
    Truncated {
        /// The stream.
        stream: String,
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The end of the partition.
        end: i64,
        /// The next offset that the stream would read.
        next: i64,
    },
    /// Postgres refuses what waiting does not heal.
    #[error("stream `{stream}`: Postgres refuses: {source}")]
    Database {
        /// The stream.
        stream: String,
        /// What it said.
        source: sqlx::Error,
    },
    /// Kafka refuses what waiting does not heal.
    #[error("stream `{stream}`: Kafka refuses: {source}")]
    Kafka {
        /// The stream.
        stream: String,
        /// What it said.
        source: KafkaError,
    },
}
