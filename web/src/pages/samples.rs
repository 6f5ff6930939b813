//! Rows for tests of what pages show: a run with a task in every state.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use pinwheel_scheduler::{
    model::{
        Catchup, Dag, DagId, InstanceId, Overlap, RunId, RunKind, RunState, SleepReason, Task,
        TaskId, TaskState, TriggerRule, VersionId,
    },
    store::{InstanceRow, RunRow},
};
use serde_json::{Map, Value};

pub(super) fn noon() -> DateTime<Utc> {
    "2026-03-01T12:00:00Z".parse().expect("an instant")
}

pub(super) fn name(text: &str) -> TaskId {
    TaskId::new(text).expect("a name")
}

pub(super) fn task(id: &str, kind: &str, upstream: &[usize]) -> Task {
    Task {
        id: name(id),
        kind: kind.to_owned(),
        upstream: upstream.to_vec(),
        downstream: vec![],
        trigger_rule: TriggerRule::AllSuccess,
        retries: 2,
        retry_delay: Duration::from_secs(30),
        retry: pinwheel_scheduler::model::retry::RetryRules::default(),
        queue_timeout: None,
        timeout: None,
        pool: "default".to_owned(),
        queue: "default".to_owned(),
        priority: 0,
        slots: 1,
        allow_failure: false,
        concurrency: None,
        flow: Default::default(),
        outlets: Vec::new(),
        with: Map::new(),
    }
}

/// One task per state, each below the first.
pub(super) fn dag() -> Dag {
    let mut tasks = vec![task("land", "kafka_to_s3", &[])];
    for id in [
        "clean", "check", "pause", "again", "publish", "notify", "archive", "report",
    ] {
        tasks.push(task(id, "shell", &[0]));
    }
    tasks.push(task("summary", "noop", &[1, 2, 8]));
    Dag {
        id: DagId::new("pins").expect("a name"),
        description: "All <states> & none".to_owned(),
        schedule: None,
        start: None,
        end: None,
        catchup: Catchup::None,
        catchup_window: None,
        jitter: None,
        overlap: Overlap::Queue,
        max_active_runs: 1,
        max_active_tasks: None,
        datasets: None,
        alerts: Default::default(),
        timeout: None,
        params: Default::default(),
        groups: Default::default(),
        tasks,
    }
}

pub(super) fn run() -> RunRow {
    let params = serde_json::json!({ "note": "<script>alert(1)</script>", "rows": 3 });
    RunRow {
        run_id: RunId(17),
        dag_id: DagId::new("pins").expect("a name"),
        version_id: VersionId(1),
        kind: RunKind::Manual,
        state: RunState::Running,
        logical_date: noon(),
        data_interval_start: noon(),
        data_interval_end: noon(),
        created_at: noon(),
        started_at: Some(noon()),
        finished_at: None,
        triggered_by: "\"><img src=x>".to_owned(),
        reason: None,
        params: match params {
            Value::Object(params) => params,
            _ => Map::new(),
        },
    }
}

pub(super) fn instances() -> Vec<InstanceRow> {
    let at = |seconds: i64| Some(noon() + TimeDelta::seconds(seconds));
    let states = [
        TaskState::Success,
        TaskState::Running,
        TaskState::Queued,
        TaskState::Sleeping,
        TaskState::Sleeping,
        TaskState::Failed,
        TaskState::Skipped,
        TaskState::UpstreamFailed,
        TaskState::Cancelled,
        TaskState::Waiting,
    ];
    let dag = dag();
    let mut rows: Vec<InstanceRow> = dag
        .tasks
        .iter()
        .zip(states)
        .enumerate()
        .map(|(ordinal, (task, state))| InstanceRow {
            instance_id: InstanceId(100 + ordinal as i64),
            run_id: RunId(17),
            task_id: task.id.clone(),
            ordinal: ordinal as i32,
            map_index: -1,
            item_name: None,
            kind: task.kind.clone(),
            state,
            sleep_reason: None,
            sleep_note: None,
            wake_at: None,
            tries: 1,
            tries_allowed: 3,
            queued_at: at(ordinal as i64 * 2),
            started_at: at(ordinal as i64 * 2 + 1),
            finished_at: state
                .is_final()
                .then(|| noon() + TimeDelta::seconds(ordinal as i64 * 2 + 8)),
            reason: None,
            worker: None,
        })
        .collect();
    rows[1].worker = Some("host-1".to_owned());
    rows[2].started_at = None;
    rows[3].sleep_reason = Some(SleepReason::Deferred);
    rows[3].sleep_note = Some("waits 10 min".to_owned());
    rows[4].sleep_reason = Some(SleepReason::Retry);
    rows[5].reason = Some("exit code 1: <b>not bold</b>".to_owned());
    rows[6].started_at = None;
    rows[7].started_at = None;
    rows[9].queued_at = None;
    rows[9].started_at = None;
    rows[9].tries = 0;
    rows
}
