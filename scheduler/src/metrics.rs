//! The scheduler's metrics. Names in one place, units as suffix, labels bounded: never a run or a task.

use std::sync::LazyLock;

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    proto::MetricFamily,
};

use crate::store::Removed;

static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::new);

pub(crate) static SETTLED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let counter = IntCounterVec::new(
        Opts::new(
            "pinwheel_executions_settled_total",
            "Executions that this process has settled, by how they ended",
        ),
        &["outcome"],
    )
    .expect("the name and the label are valid");
    register(counter)
});

pub(crate) static REFUSED: LazyLock<IntCounter> = LazyLock::new(|| {
    register(counter(
        "pinwheel_executions_refused_total",
        "Late results that the fence refused",
    ))
});

pub(crate) static CLAIMED: LazyLock<IntCounter> = LazyLock::new(|| {
    register(counter(
        "pinwheel_executions_claimed_total",
        "Executions that this process has claimed",
    ))
});

pub(crate) static RUNS_CLOSED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let counter = IntCounterVec::new(
        Opts::new(
            "pinwheel_runs_closed_total",
            "Runs that this process has closed, by state",
        ),
        &["state"],
    )
    .expect("the name and the label are valid");
    register(counter)
});

pub(crate) static SKIPPED_TICKS: LazyLock<IntCounter> = LazyLock::new(|| {
    register(counter(
        "pinwheel_ticks_skipped_total",
        "Ticks for which this process made no run because of `overlap = \"skip\"`",
    ))
});

pub(crate) static RUNNING: LazyLock<IntGauge> = LazyLock::new(|| {
    let gauge = IntGauge::new(
        "pinwheel_executions_running",
        "Executions that run in this process now",
    )
    .expect("the name is valid");
    register(gauge)
});

pub(crate) static SETTLE_SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
    register(seconds(
        "pinwheel_settle_duration_seconds",
        "Settling a batch, with the claim in it",
    ))
});

pub(crate) static CLAIM_SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
    register(seconds(
        "pinwheel_claim_duration_seconds",
        "A claim on its own",
    ))
});

pub(crate) static SETTLE_BATCH: LazyLock<Histogram> = LazyLock::new(|| {
    let options = HistogramOpts::new(
        "pinwheel_settle_batch_executions",
        "Executions settled in one transaction",
    )
    .buckets(vec![1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
    register(Histogram::with_opts(options).expect("the name and the buckets are valid"))
});

pub(crate) static STORE_ERRORS: LazyLock<IntCounter> = LazyLock::new(|| {
    register(counter(
        "pinwheel_store_errors_total",
        "Statements of the engine that Postgres did not answer or refused",
    ))
});

static REMOVED: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let counter = IntCounterVec::new(
        Opts::new(
            "pinwheel_retention_removed_rows_total",
            "Rows that this process has removed because they were old, by what they were",
        ),
        &["what"],
    )
    .expect("the name and the label are valid");
    register(counter)
});

/// Messages to people that were tried to be delivered, by what became of it.
pub(crate) static DELIVERIES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let counter = IntCounterVec::new(
        Opts::new(
            "pinwheel_deliveries_total",
            "Deliveries of messages to people that this process has tried, by what became of them",
        ),
        &["outcome"],
    )
    .expect("the name and the label are valid");
    register(counter)
});

/// Counts what a step of retention has removed.
pub(crate) fn count_removed(removed: &Removed) {
    for (what, rows) in removed.parts() {
        REMOVED.with_label_values(&[what]).inc_by(rows);
    }
}

/// Everything measured so far, for `/metrics`.
pub fn gather() -> Vec<MetricFamily> {
    // What nothing has moved yet is zero, not absent.
    for counter in [&REFUSED, &CLAIMED, &STORE_ERRORS] {
        LazyLock::force(counter);
    }
    LazyLock::force(&RUNNING);
    REGISTRY.gather()
}

fn counter(name: &str, help: &str) -> IntCounter {
    IntCounter::new(name, help).expect("the name is valid")
}

fn seconds(name: &str, help: &str) -> Histogram {
    let options = HistogramOpts::new(name, help).buckets(vec![
        0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0,
    ]);
    Histogram::with_opts(options).expect("the name and the buckets are valid")
}

fn register<C: prometheus::core::Collector + Clone + 'static>(collector: C) -> C {
    REGISTRY
        .register(Box::new(collector.clone()))
        .expect("every metric is registered once, under its own name");
    collector
}
