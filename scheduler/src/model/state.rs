//! States of runs and task instances, and the one table of transitions between them.
//!
//! The database holds the same table (a trigger that only forbids); a test of the store walks all pairs and requires
//! both to agree. A pair that is not in the table, a state to itself included, is no transition.

use std::{fmt, fmt::Write as _, str::FromStr};

use serde::{Deserialize, Serialize};

/// The state of a run.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "run_state", rename_all = "snake_case")]
pub enum RunState {
    /// Made, and waiting for `max_active_runs`.
    Queued,
    /// Its tasks may run.
    Running,
    /// Final: every task is final and none failed (but those with `allow_failure`).
    Success,
    /// Final: a task failed.
    Failed,
    /// Final: a person ended it.
    Cancelled,
}

/// Why a run exists.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "run_kind", rename_all = "snake_case")]
pub enum RunKind {
    /// The schedule made it.
    Scheduled,
    /// A person or a program asked for it.
    Manual,
    /// A backfill made it.
    Backfill,
    /// A dataset event made it.
    Dataset,
}

/// The state of a task instance. There is no NULL state.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "task_state", rename_all = "snake_case")]
pub enum TaskState {
    /// Upstream tasks are not final.
    Waiting,
    /// May be claimed now.
    Queued,
    /// Owned by one worker's lease.
    Running,
    /// Due at `wake_at`.
    Sleeping,
    /// Final.
    Success,
    /// Final.
    Failed,
    /// Final: its rule, its own decision or a branch left it out.
    Skipped,
    /// Final: its rule cannot be met because of a failure above.
    UpstreamFailed,
    /// Final: a person ended its run.
    Cancelled,
}

/// Why a task instance sleeps.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "sleep_reason", rename_all = "snake_case")]
pub enum SleepReason {
    /// Shown as *up for retry*.
    Retry,
    /// Shown as *deferred*: the task waits for something by the clock.
    Deferred,
    /// Shown as *rescheduled*: a sensor looks again later.
    Rescheduled,
}

/// How one execution of a try ended.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "try_outcome", rename_all = "snake_case")]
pub enum TryOutcome {
    /// It did its work.
    Success,
    /// It failed.
    Failed,
    /// It decided that there is nothing to do.
    Skipped,
    /// Its run was cancelled.
    Cancelled,
    /// Its worker's lease ended first.
    Lost,
    /// It ran longer than its `timeout`.
    Timeout,
}

/// What moves a run or a task instance from one state to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum By {
    /// A place within `max_active_runs` became free for a run.
    Start,
    /// The upstream tasks have decided.
    Promote,
    /// A worker took the task.
    Claim,
    /// The try ended, or the last task of a run did.
    Settle,
    /// The worker gave the task back unfinished (shutdown), or its lease ended first.
    Release,
    /// `wake_at` has come.
    Wake,
    /// A person ended the run.
    Cancel,
    /// A person wants it to run again.
    Clear,
    /// A person says how it ended.
    Mark,
    /// It was queued, or its run took, longer than it may.
    TimeOut,
}

/// Every transition of a task instance. A new one begins as [`TaskState::Waiting`], or as [`TaskState::Queued`] where
/// nothing is above it. A cleared one goes to *waiting* first, also when all above it is done.
pub const TASK_TRANSITIONS: &[(TaskState, TaskState, By)] = {
    use TaskState::{
        Cancelled, Failed, Queued, Running, Skipped, Sleeping, Success, UpstreamFailed, Waiting,
    };
    &[
        (Waiting, Queued, By::Promote),
        (Waiting, Running, By::Promote),
        (Waiting, Skipped, By::Promote),
        (Waiting, UpstreamFailed, By::Promote),
        (Waiting, Cancelled, By::Cancel),
        (Queued, Running, By::Claim),
        (Queued, Cancelled, By::Cancel),
        (Running, Success, By::Settle),
        (Running, Failed, By::Settle),
        (Running, Skipped, By::Settle),
        (Running, Sleeping, By::Settle),
        (Running, Queued, By::Release),
        (Running, Failed, By::Release),
        (Running, Cancelled, By::Cancel),
        (Sleeping, Queued, By::Wake),
        (Sleeping, Cancelled, By::Cancel),
        (Success, Waiting, By::Clear),
        (Failed, Waiting, By::Clear),
        (Skipped, Waiting, By::Clear),
        (UpstreamFailed, Waiting, By::Clear),
        (Cancelled, Waiting, By::Clear),
        (Waiting, Success, By::Mark),
        (Waiting, Failed, By::Mark),
        (Waiting, Skipped, By::Mark),
        (Queued, Success, By::Mark),
        (Queued, Failed, By::Mark),
        (Queued, Skipped, By::Mark),
        (Running, Success, By::Mark),
        (Running, Failed, By::Mark),
        (Sleeping, Success, By::Mark),
        (Sleeping, Failed, By::Mark),
        (Success, Failed, By::Mark),
        (Failed, Success, By::Mark),
        (Skipped, Success, By::Mark),
        (Skipped, Failed, By::Mark),
        (UpstreamFailed, Success, By::Mark),
        (UpstreamFailed, Failed, By::Mark),
        (Cancelled, Success, By::Mark),
        (Cancelled, Failed, By::Mark),
        (Queued, Failed, By::TimeOut),
        (Waiting, Skipped, By::TimeOut),
        (Queued, Skipped, By::TimeOut),
        (Running, Skipped, By::TimeOut),
        (Sleeping, Skipped, By::TimeOut),
    ]
};

/// Every transition of a run. A new one begins as [`RunState::Queued`]. A cleared one goes on running at once, beyond
/// `max_active_runs` if need be: the person who clears it waits for it.
pub const RUN_TRANSITIONS: &[(RunState, RunState, By)] = {
    use RunState::{Cancelled, Failed, Queued, Running, Success};
    &[
        (Queued, Running, By::Start),
        (Queued, Cancelled, By::Cancel),
        (Running, Success, By::Settle),
        (Running, Failed, By::Settle),
        (Running, Cancelled, By::Cancel),
        (Success, Running, By::Clear),
        (Failed, Running, By::Clear),
        (Cancelled, Running, By::Clear),
        (Success, Running, By::Mark),
        (Failed, Running, By::Mark),
        (Cancelled, Running, By::Mark),
        (Running, Failed, By::Mark),
        (Success, Failed, By::Mark),
        (Cancelled, Failed, By::Mark),
        (Running, Failed, By::TimeOut),
    ]
};

/// A text that names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} `{text}`")]
pub struct Unknown {
    what: &'static str,
    text: String,
}

macro_rules! words {
    ($name:ident, $what:literal, $($variant:ident $word:literal $label:literal),+ $(,)?) => {
        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word in the database, in JSON and on the command line.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }

            /// The words for people.
            pub fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label),+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = Unknown;

            fn from_str(text: &str) -> Result<Self, Unknown> {
                Self::ALL
                    .iter()
                    .copied()
                    .find(|word| word.as_str() == text)
                    .ok_or_else(|| Unknown { what: $what, text: text.to_owned() })
            }
        }
    };
}

words!(
    RunState,
    "run state",
    Queued "queued" "queued",
    Running "running" "running",
    Success "success" "success",
    Failed "failed" "failed",
    Cancelled "cancelled" "cancelled",
);
words!(
    RunKind,
    "kind of run",
    Scheduled "scheduled" "scheduled",
    Manual "manual" "manual",
    Backfill "backfill" "backfill",
    Dataset "dataset" "by dataset",
);
words!(
    TaskState,
    "task state",
    Waiting "waiting" "waiting",
    Queued "queued" "queued",
    Running "running" "running",
    Sleeping "sleeping" "sleeping",
    Success "success" "success",
    Failed "failed" "failed",
    Skipped "skipped" "skipped",
    UpstreamFailed "upstream_failed" "upstream failed",
    Cancelled "cancelled" "cancelled",
);
words!(
    SleepReason,
    "reason to sleep",
    Retry "retry" "up for retry",
    Deferred "deferred" "deferred",
    Rescheduled "rescheduled" "rescheduled",
);
words!(
    TryOutcome,
    "outcome of a try",
    Success "success" "success",
    Failed "failed" "failed",
    Skipped "skipped" "skipped",
    Cancelled "cancelled" "cancelled",
    Lost "lost" "lost with its worker",
    Timeout "timeout" "timed out",
);

impl TaskState {
    /// Says whether only a person can change it: by a clear or a mark.
    pub fn is_final(self) -> bool {
        match self {
            Self::Success
            | Self::Failed
            | Self::Skipped
            | Self::UpstreamFailed
            | Self::Cancelled => true,
            Self::Waiting | Self::Queued | Self::Running | Self::Sleeping => false,
        }
    }

    /// Says whether `by` may move it from this state to `next`.
    pub fn can_become(self, next: Self, by: By) -> bool {
        TASK_TRANSITIONS.contains(&(self, next, by))
    }

    /// Says whether anything may move it from this state to `next`: what the database guards.
    pub fn may_become(self, next: Self) -> bool {
        TASK_TRANSITIONS
            .iter()
            .any(|(from, to, _)| (*from, *to) == (self, next))
    }
}

impl RunState {
    /// Says whether only a person can change it: by a clear or a mark.
    pub fn is_final(self) -> bool {
        match self {
            Self::Success | Self::Failed | Self::Cancelled => true,
            Self::Queued | Self::Running => false,
        }
    }

    /// Says whether `by` may move it from this state to `next`.
    pub fn can_become(self, next: Self, by: By) -> bool {
        RUN_TRANSITIONS.contains(&(self, next, by))
    }

    /// Says whether anything may move it from this state to `next`: what the database guards.
    pub fn may_become(self, next: Self) -> bool {
        RUN_TRANSITIONS
            .iter()
            .any(|(from, to, _)| (*from, *to) == (self, next))
    }
}

/// The words for people for a task instance: why it sleeps, where it does.
pub fn label(state: TaskState, sleep_reason: Option<SleepReason>) -> &'static str {
    match (state, sleep_reason) {
        (TaskState::Sleeping, Some(reason)) => reason.label(),
        (state, _) => state.label(),
    }
}

impl By {
    /// The word on the diagram's arrow.
    pub fn label(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Promote => "promote",
            Self::Claim => "claim",
            Self::Settle => "settle",
            Self::Release => "release",
            Self::Wake => "wake",
            Self::Cancel => "cancel",
            Self::Clear => "clear",
            Self::Mark => "mark",
            Self::TimeOut => "time out",
        }
    }
}

/// The Mermaid diagram of a task instance's states, for the docs.
pub fn task_diagram() -> String {
    diagram(
        TASK_TRANSITIONS,
        &[TaskState::Waiting, TaskState::Queued],
        TaskState::ALL,
        TaskState::is_final,
    )
}

/// The Mermaid diagram of a run's states, for the docs.
pub fn run_diagram() -> String {
    diagram(
        RUN_TRANSITIONS,
        &[RunState::Queued],
        RunState::ALL,
        RunState::is_final,
    )
}

fn diagram<S: Copy + PartialEq + fmt::Display>(
    transitions: &[(S, S, By)],
    first: &[S],
    all: &[S],
    is_final: fn(S) -> bool,
) -> String {
    let mut text = "stateDiagram-v2\n".to_owned();
    let mut arrow = |from: &dyn fmt::Display, to: &dyn fmt::Display, by: &[&str]| {
        let label = if by.is_empty() {
            String::new()
        } else {
            format!(": {}", by.join(", "))
        };
        writeln!(text, "    {from} --> {to}{label}").expect("writing to a string cannot fail");
    };
    for state in first {
        arrow(&"[*]", state, &[]);
    }
    for from in all {
        for to in all {
            let by: Vec<&str> = transitions
                .iter()
                .filter(|(one, other, _)| (one, other) == (from, to))
                .map(|(_, _, by)| by.label())
                .collect();
            if !by.is_empty() {
                arrow(from, to, &by);
            }
        }
    }
    for state in all.iter().filter(|state| is_final(**state)) {
        arrow(state, &"[*]", &[]);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_diagrams_of_the_documentation_are_drawn_from_the_tables() {
        let page = include_str!("../../../docs/ARCHITECTURE.md");
        for diagram in [task_diagram(), run_diagram()] {
            assert!(
                page.contains(diagram.trim()),
                "docs/ARCHITECTURE.md lacks:\n{diagram}"
            );
        }
    }

    /// Walks every pair of states and requires what the sentences of the docs say about it.
    #[test]
    fn every_pair_of_task_states_is_as_the_docs_say() {
        let mut allowed = 0;
        for from in TaskState::ALL.iter().copied() {
            for to in TaskState::ALL.iter().copied() {
                let may = from.may_become(to);
                allowed += usize::from(may);
                assert_eq!(
                    may,
                    TASK_TRANSITIONS
                        .iter()
                        .any(|(one, other, by)| (*one, *other) == (from, to)
                            && from.can_become(to, *by))
                );
                if from == to {
                    assert!(!may, "{from} to itself is no transition");
                }
                if from.is_final() {
                    assert_eq!(
                        from.can_become(to, By::Clear),
                        to == TaskState::Waiting,
                        "{from} goes back to waiting only"
                    );
                    assert_eq!(
                        may,
                        from.can_become(to, By::Clear) || from.can_become(to, By::Mark)
                    );
                } else {
                    assert!(
                        !from.can_become(to, By::Clear),
                        "{from} is not final, so it is not cleared"
                    );
                    assert_eq!(from.can_become(to, By::Cancel), to == TaskState::Cancelled);
                }
                assert_eq!(
                    from.can_become(to, By::Claim),
                    (from, to) == (TaskState::Queued, TaskState::Running)
                );
                if matches!(to, TaskState::Success | TaskState::Failed) && from != to {
                    assert!(
                        from.can_become(to, By::Mark),
                        "a person may say that {from} is {to}"
                    );
                    assert!(
                        from == TaskState::Running || !from.can_become(to, By::Settle),
                        "only what ran is found to be {to}"
                    );
                }
                if from.can_become(to, By::TimeOut) {
                    assert!(
                        !from.is_final() && to == TaskState::Skipped
                            || (from, to) == (TaskState::Queued, TaskState::Failed)
                    );
                }
            }
        }
        assert_eq!(allowed, 36);
    }

    #[test]
    fn every_pair_of_run_states_is_as_the_docs_say() {
        let mut allowed = 0;
        for from in RunState::ALL.iter().copied() {
            for to in RunState::ALL.iter().copied() {
                let may = from.may_become(to);
                allowed += usize::from(may);
                if from.is_final() {
                    assert_eq!(
                        may,
                        from.can_become(to, By::Clear) || from.can_become(to, By::Mark)
                    );
                    assert_eq!(from.can_become(to, By::Clear), to == RunState::Running);
                }
                assert!(!(may && to == RunState::Queued), "a run is queued once");
                assert!(!(may && from == to));
            }
        }
        assert_eq!(allowed, 10);
    }

    #[test]
    fn every_state_can_be_reached_and_left() {
        let mut reached = BTreeSet::from([TaskState::Waiting]);
        for _ in TaskState::ALL {
            let next: Vec<_> = TASK_TRANSITIONS
                .iter()
                .filter(|(from, ..)| reached.contains(from))
                .map(|(_, to, _)| *to)
                .collect();
            reached.extend(next);
        }
        assert_eq!(reached.len(), TaskState::ALL.len());
        for state in TaskState::ALL
            .iter()
            .copied()
            .filter(|state| !state.is_final())
        {
            assert!(
                TASK_TRANSITIONS
                    .iter()
                    .any(|(from, to, by)| *from == state && to.is_final() && *by == By::Cancel)
            );
        }
    }

    #[test]
    fn no_transition_stands_twice_in_a_table() {
        assert_eq!(
            TASK_TRANSITIONS.iter().collect::<BTreeSet<_>>().len(),
            TASK_TRANSITIONS.len()
        );
        assert_eq!(
            RUN_TRANSITIONS.iter().collect::<BTreeSet<_>>().len(),
            RUN_TRANSITIONS.len()
        );
    }

    #[test]
    fn a_state_is_read_as_it_is_written() {
        for state in TaskState::ALL.iter().copied() {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert_eq!(
                serde_json::to_value(state).expect("it is JSON"),
                state.as_str()
            );
        }
        for state in RunState::ALL.iter().copied() {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert_eq!(
            "don"
                .parse::<TaskState>()
                .expect_err("it is none")
                .to_string(),
            "unknown task state `don`"
        );
        assert_eq!(
            label(TaskState::Sleeping, Some(SleepReason::Retry)),
            "up for retry"
        );
        assert_eq!(label(TaskState::UpstreamFailed, None), "upstream failed");
    }

    #[test]
    fn the_diagrams_show_every_transition() {
        let diagram = task_diagram();
        for (from, to, by) in TASK_TRANSITIONS {
            let arrow = format!("    {from} --> {to}: ");
            let line = diagram
                .lines()
                .find(|line| line.starts_with(&arrow))
                .expect("every pair has an arrow");
            assert!(line.contains(by.label()), "{line}");
        }
        assert_eq!(
            run_diagram(),
            "stateDiagram-v2
    [*] --> queued
    queued --> running: start
    queued --> cancelled: cancel
    running --> success: settle
    running --> failed: settle, mark, time out
    running --> cancelled: cancel
    success --> running: clear, mark
    success --> failed: mark
    failed --> running: clear, mark
    cancelled --> running: clear, mark
    cancelled --> failed: mark
    success --> [*]
    failed --> [*]
    cancelled --> [*]
"
        );
    }
}
