//! The shapes of work that the engine is measured with.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, Datelike, Timelike, Utc};
use chrono_tz::Tz;
use clap::ValueEnum;
use pinwheel_scheduler::model::{
    Alerts, Catchup, Dag, DagId, Flow, Foreach, Overlap, Schedule, Task, TaskId, TriggerRule,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// A workload, by the name that is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(super) enum Workload {
    /// One run of 40 no-op tasks, one after the other
    Chain,
    /// One run: a task, 200 after it, one after all of them
    Fan,
    /// 100 runs at once of a chain of 5
    Many,
    /// 5,000 DAGs due at once, of 10 tasks each: one, 8 after it, one after all of them
    Burst,
    /// One run of a task that is mapped over a list of 10,000 items
    Map,
    /// 1,000 DAGs of one task due in the same second
    Tick,
    /// One DAG of one task that is due
    TickOne,
    /// One run of 1,000 processes (`true`), beside a bare loop that starts and awaits as many
    Shell,
}

/// How the runs of a workload come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// So many runs of each DAG are triggered in one call.
    Triggered { runs: usize },
    /// The schedule makes one run of each DAG when its tick comes.
    Ticked,
}

impl Workload {
    pub(super) fn name(self) -> String {
        crate::cli::output::word(&self)
    }

    /// What the ids of its DAGs begin with.
    pub(super) fn prefix(self) -> String {
        format!("bench_{}_", self.name())
    }

    pub(super) fn start(self) -> Start {
        match self {
            Self::Chain | Self::Fan | Self::Map | Self::Shell => Start::Triggered { runs: 1 },
            Self::Many => Start::Triggered { runs: 100 },
            Self::Burst | Self::Tick | Self::TickOne => Start::Ticked,
        }
    }

    pub(super) fn dags(self) -> usize {
        match self {
            Self::Chain | Self::Fan | Self::Many | Self::Map | Self::TickOne | Self::Shell => 1,
            Self::Burst => 5_000,
            Self::Tick => 1_000,
        }
    }

    /// How often it is measured; the one with the median wall time is reported.
    pub(super) fn repetitions(self) -> usize {
        match self {
            Self::Chain | Self::Fan | Self::Many | Self::TickOne => 5,
            Self::Map | Self::Shell => 3,
            Self::Burst | Self::Tick => 1,
        }
    }

    /// How many runs one repetition ends with.
    pub(super) fn runs(self) -> usize {
        match self.start() {
            Start::Triggered { runs } => runs,
            Start::Ticked => self.dags(),
        }
    }

    /// Its DAGs; with a `tick`, due then.
    pub(super) fn make(self, tick: Option<DateTime<Utc>>) -> Vec<Arc<Dag>> {
        (0..self.dags())
            .map(|number| {
                let id = format!("{}{number}", self.prefix());
                let upstream = self.upstream();
                Arc::new(dag(&id, self, &upstream, tick))
            })
            .collect()
    }

    /// Upstream ordinals of each task.
    fn upstream(self) -> Vec<Vec<usize>> {
        let chain = |length: usize| {
            (0..length)
                .map(|n| n.checked_sub(1).into_iter().collect())
                .collect()
        };
        let fan = |width: usize| {
            let mut tasks = vec![Vec::new()];
            tasks.extend((0..width).map(|_| vec![0]));
            tasks.push((1..=width).collect());
            tasks
        };
        match self {
            Self::Chain => chain(40),
            Self::Fan => fan(200),
            Self::Many => chain(5),
            Self::Burst => fan(8),
            Self::Map => vec![Vec::new()],
            Self::Tick | Self::TickOne => chain(1),
            Self::Shell => vec![Vec::new(); 1_000],
        }
    }
}

/// As many as a list may have.
const MAP_ITEMS: usize = 10_000;

fn dag(id: &str, workload: Workload, upstream: &[Vec<usize>], tick: Option<DateTime<Utc>>) -> Dag {
    let mut tasks: Vec<Task> = upstream
        .iter()
        .enumerate()
        .map(|(number, upstream)| task(number, workload, upstream.clone()))
        .collect();
    for (number, upstream) in upstream.iter().enumerate() {
        for above in upstream {
            tasks[*above].downstream.push(number);
        }
    }
    Dag {
        id: DagId::new(id).expect("the name of a workload and a number are a name"),
        description: String::new(),
        schedule: tick.map(|tick| {
            let once_a_year = format!(
                "{} {} {} {} {} *",
                tick.second(),
                tick.minute(),
                tick.hour(),
                tick.day(),
                tick.month()
            );
            Schedule::parse_cron(&once_a_year, Tz::UTC)
                .expect("numbers of a date are a cron expression")
        }),
        start: None,
        end: None,
        catchup: Catchup::None,
        catchup_window: None,
        jitter: None,
        overlap: Overlap::Queue,
        max_active_runs: 10_000,
        max_active_tasks: None,
        datasets: None,
        alerts: Alerts::default(),
        timeout: None,
        params: BTreeMap::new(),
        groups: Default::default(),
        tasks,
    }
}

fn task(number: usize, workload: Workload, upstream: Vec<usize>) -> Task {
    let (kind, with) = match workload {
        Workload::Shell => (
            "shell",
            Map::from_iter([("command".to_owned(), json!(["true"]))]),
        ),
        Workload::Chain
        | Workload::Fan
        | Workload::Many
        | Workload::Burst
        | Workload::Map
        | Workload::Tick
        | Workload::TickOne => ("noop", Map::<String, Value>::new()),
    };
    Task {
        id: TaskId::new(format!("t{number}")).expect("a letter and a number are a name"),
        kind: kind.to_owned(),
        upstream,
        downstream: Vec::new(),
        trigger_rule: TriggerRule::AllSuccess,
        retries: 0,
        retry_delay: Duration::from_secs(300),
        retry: pinwheel_scheduler::model::retry::RetryRules::default(),
        queue_timeout: None,
        timeout: None,
        pool: "default".to_owned(),
        queue: "default".to_owned(),
        priority: 0,
        slots: 1,
        allow_failure: false,
        concurrency: None,
        flow: Flow {
            foreach: (workload == Workload::Map).then(|| Foreach {
                list: (0..MAP_ITEMS).collect(),
                item_name: None,
                max_active_items: None,
            }),
            ..Flow::default()
        },
        outlets: Vec::new(),
        with,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_as_large_as_they_say() {
        let tasks = |workload: Workload| {
            workload
                .make(None)
                .iter()
                .flat_map(|dag| dag.tasks.clone())
                .map(|task| match task.flow.foreach {
                    Some(foreach) => foreach.list.as_array().map_or(0, Vec::len),
                    None => 1,
                })
                .sum::<usize>()
                * workload.runs()
                / workload.dags()
        };
        let sizes: Vec<_> = Workload::value_variants()
            .iter()
            .map(|one| tasks(*one))
            .collect();
        assert_eq!(sizes, [40, 202, 500, 50_000, 10_000, 1_000, 1, 1_000]);
    }

    #[test]
    fn a_ticked_dag_is_due_at_its_tick() {
        let tick = "2031-05-06T07:08:09Z".parse().expect("an instant");
        let dags = Workload::TickOne.make(Some(tick));
        let schedule = dags[0].schedule.as_ref().expect("it has one");
        assert_eq!(
            schedule.next_after(tick - chrono::TimeDelta::days(1)),
            Some(tick)
        );
    }
}
