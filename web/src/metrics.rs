//! The names of the web role's metrics. Labels are bounded: a route, never a path.

use std::time::Duration;

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use pinwheel_scheduler::store::Gauges;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    proto::MetricFamily,
};
use tokio::time::Instant;

use crate::WebState;

/// The web role's own metrics.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    duration: HistogramVec,
    /// Open live connections.
    pub(crate) live: IntGauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let requests = IntCounterVec::new(
            Opts::new("pinwheel_http_requests_total", "HTTP requests answered"),
            &["method", "route", "status"],
        )
        .expect("name and labels are valid");
        let duration = HistogramVec::new(
            HistogramOpts::new(
                "pinwheel_http_request_duration_seconds",
                "Time until the head of the answer",
            )
            .buckets(vec![
                0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
            ]),
            &["route"],
        )
        .expect("name and labels are valid");
        let live = IntGauge::new(
            "pinwheel_http_live_connections",
            "Open server-sent event connections",
        )
        .expect("the name is valid");
        let registry = Registry::new();
        let collectors: [Box<dyn prometheus::core::Collector>; 3] = [
            Box::new(requests.clone()),
            Box::new(duration.clone()),
            Box::new(live.clone()),
        ];
        for collector in collectors {
            registry
                .register(collector)
                .expect("every name is registered once");
        }
        Self {
            registry,
            requests,
            duration,
            live,
        }
    }

    pub(crate) fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    fn observe(&self, method: &str, route: &str, status: u16, took: Duration) {
        self.requests
            .with_label_values(&[method, route, &status.to_string()])
            .inc();
        self.duration
            .with_label_values(&[route])
            .observe(took.as_secs_f64());
    }
}

/// What is true of the whole installation and not of a process, as the store has just told it. The labels are names
/// that DAG files and settings give, and states: all few.
pub(crate) fn of_the_installation(gauges: &Gauges) -> Vec<MetricFamily> {
    let registry = Registry::new();
    let gauge = |name: &str, help: &str, label: &str| {
        let gauge =
            IntGaugeVec::new(Opts::new(name, help), &[label]).expect("name and label are valid");
        registry
            .register(Box::new(gauge.clone()))
            .expect("every name is registered once");
        gauge
    };
    let slots = gauge(
        "pinwheel_pool_slots",
        "Slots of a pool that has a limit",
        "pool",
    );
    let used = gauge(
        "pinwheel_pool_slots_used",
        "Slots that running tasks take of a pool that has a limit",
        "pool",
    );
    for (pool, has, uses) in &gauges.pools {
        slots.with_label_values(&[pool]).set(i64::from(*has));
        used.with_label_values(&[pool]).set(*uses);
    }
    let ready = gauge(
        "pinwheel_ready_tasks",
        "Tasks that could be claimed now, by queue",
        "queue",
    );
    for (queue, tasks) in &gauges.ready {
        ready.with_label_values(&[queue]).set(*tasks);
    }
    let workers = gauge(
        "pinwheel_workers",
        "Processes that run tasks, by state; the lost and the ended ones of the last hour",
        "state",
    );
    for (state, number) in &gauges.workers {
        workers
            .with_label_values(&[state.as_str()])
            .set(i64::try_from(*number).unwrap_or(i64::MAX));
    }
    registry.gather()
}

/// Counts and times every request.
pub(crate) async fn measure(
    State(state): State<WebState>,
    request: Request,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => {
            known.to_owned()
        }
        _ => "other".to_owned(),
    };
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("none", MatchedPath::as_str)
        .to_owned();
    let response = next.run(request).await;
    state
        .metrics
        .observe(&method, &route, response.status().as_u16(), begun.elapsed());
    response
}
