//! Every metric name of this crate. Labels are bounded: a stream, a partition, a result; never a key or a run.

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
};

/// What the ingest API counts.
#[derive(Clone, Debug)]
pub struct Ingest {
    /// Posts by what became of them: `accepted`, `invalid`, `unavailable`, `busy`.
    pub(crate) posts: IntCounterVec,
    /// The first of them by itself, so that a post that is accepted looks no label up.
    pub(crate) accepted: IntCounter,
    /// From the first byte of the body read to the broker's acknowledgement.
    pub(crate) acknowledged: Histogram,
    /// Requests being answered.
    pub(crate) in_flight: IntGauge,
    /// 1 while the broker answers.
    pub(crate) broker_up: IntGauge,
}

impl Ingest {
    /// Registers the ingest API's metrics. A registry that has them already keeps the first ones.
    pub fn register(registry: &Registry) -> Self {
        let posts = kept(
            registry,
            IntCounterVec::new(
                Opts::new("pinwheel_ingest_posts_total", "Posts by result"),
                &["result"],
            ),
        );
        Self {
            accepted: posts.with_label_values(&["accepted"]),
            posts,
            acknowledged: kept(
                registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "pinwheel_ingest_acknowledged_seconds",
                        "Time from a request's start to the broker's acknowledgement",
                    )
                    .buckets(latency_buckets()),
                ),
            ),
            in_flight: kept(
                registry,
                IntGauge::new(
                    "pinwheel_ingest_requests_in_flight",
                    "Requests being answered",
                ),
            ),
            broker_up: kept(
                registry,
                IntGauge::new("pinwheel_ingest_broker_up", "1 while the broker answers"),
            ),
        }
    }
}

/// What the streaming worker counts.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Events committed.
    pub(crate) events: IntCounterVec,
    /// Events kept as dead letters, by rule.
    pub(crate) dead: IntCounterVec,
    /// Events that came after their window was passed by the watermark.
    pub(crate) late: IntCounterVec,
    /// Events that a window has left out because they came too late.
    pub(crate) dropped: IntCounterVec,
    /// How often a worker was given partitions.
    pub(crate) rebalances: IntCounterVec,
    /// How many partitions the workers of the process have.
    pub(crate) partitions: IntGaugeVec,
    /// Committed micro-batches.
    pub(crate) batches: IntCounterVec,
    /// How long the transaction of a micro-batch took.
    pub(crate) commit: HistogramVec,
    /// Offsets behind the end of the partition.
    pub(crate) lag: IntGaugeVec,
    /// The watermark of a partition, seconds since 1970.
    pub(crate) watermark: GaugeVec,
    /// When the last batch was committed, seconds since 1970.
    pub(crate) last_commit: GaugeVec,
    /// How many workers own their partitions and reach Kafka and Postgres.
    pub(crate) up: IntGaugeVec,
}

impl Worker {
    /// Registers the streaming worker's metrics. A registry that has them already keeps the first ones.
    pub fn register(registry: &Registry) -> Self {
        let stream = &["stream"];
        let partition = &["stream", "partition"];
        Self {
            events: kept(
                registry,
                IntCounterVec::new(
                    Opts::new("pinwheel_stream_events_total", "Events committed"),
                    stream,
                ),
            ),
            dead: kept(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "pinwheel_stream_dead_letters_total",
                        "Events kept as dead letters, by stage",
                    ),
                    &["stream", "stage"],
                ),
            ),
            late: kept(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "pinwheel_stream_late_events_total",
                        "Events that came after their window had passed",
                    ),
                    stream,
                ),
            ),
            dropped: kept(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "pinwheel_stream_late_events_dropped_total",
                        "Events that a window has left out because they came too late",
                    ),
                    stream,
                ),
            ),
            rebalances: kept(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "pinwheel_stream_assignments_total",
                        "How often a worker of the process was given partitions",
                    ),
                    stream,
                ),
            ),
            partitions: kept(
                registry,
                IntGaugeVec::new(
                    Opts::new(
                        "pinwheel_stream_partitions",
                        "Partitions that the process reads",
                    ),
                    stream,
                ),
            ),
            batches: kept(
                registry,
                IntCounterVec::new(
                    Opts::new("pinwheel_stream_batches_total", "Micro-batches committed"),
                    stream,
                ),
            ),
            commit: kept(
                registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        "pinwheel_stream_commit_seconds",
                        "Time of a micro-batch's transaction",
                    )
                    .buckets(latency_buckets()),
                    stream,
                ),
            ),
            lag: kept(
                registry,
                IntGaugeVec::new(
                    Opts::new(
                        "pinwheel_stream_lag_offsets",
                        "Offsets behind the end of the partition",
                    ),
                    partition,
                ),
            ),
            watermark: kept(
                registry,
                GaugeVec::new(
                    Opts::new(
                        "pinwheel_stream_watermark_timestamp_seconds",
                        "Event time that the partition has passed",
                    ),
                    partition,
                ),
            ),
            last_commit: kept(
                registry,
                GaugeVec::new(
                    Opts::new(
                        "pinwheel_stream_last_commit_timestamp_seconds",
                        "When the last batch was committed",
                    ),
                    stream,
                ),
            ),
            up: kept(
                registry,
                IntGaugeVec::new(
                    Opts::new(
                        "pinwheel_stream_up",
                        "Workers of the process that own their partitions and make progress",
                    ),
                    stream,
                ),
            ),
        }
    }

    /// Forgets the gauges of a partition that another worker reads now.
    pub(crate) fn forget_partition(&self, stream: &str, partition: i32) {
        let labels = [stream, &partition.to_string()];
        // A gauge that was never set is as good as forgotten.
        drop(self.lag.remove_label_values(&labels));
        drop(self.watermark.remove_label_values(&labels));
    }

    /// The watermark gauge of one partition.
    pub(crate) fn watermark_of(&self, stream: &str, partition: i32) -> Gauge {
        self.watermark
            .with_label_values(&[stream, &partition.to_string()])
    }

    /// The events counter of one stream.
    pub(crate) fn events_of(&self, stream: &str) -> IntCounter {
        self.events.with_label_values(&[stream])
    }
}

/// Renders a registry in Prometheus' text format.
pub fn render(registry: &Registry) -> String {
    let mut body = Vec::new();
    match TextEncoder::new().encode(&registry.gather(), &mut body) {
        Ok(()) => String::from_utf8_lossy(&body).into_owned(),
        Err(error) => format!("# {error}\n"),
    }
}

/// A second registration (two roles in one process, a restart of a role) leaves the first collector in place: the
/// metric then counts unregistered, which is better than a role that does not start.
fn kept<M: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<M>) -> M {
    let metric = metric.expect("the names and labels in this file are valid");
    if let Err(error) = registry.register(Box::new(metric.clone())) {
        tracing::warn!(%error, "metric not registered: {error}");
    }
    metric
}

fn latency_buckets() -> Vec<f64> {
    vec![
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    ]
}
