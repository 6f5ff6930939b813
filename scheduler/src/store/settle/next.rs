//! What becomes of an execution that has ended: pure, by the retry policy.

use std::time::Duration;

use pinwheel_tasks::FailureClass;
use serde_json::Value;

use super::{Ended, Ending};
use crate::{
    model::{
        SleepReason, Task, TaskState, TryOutcome,
        retry::{self, Decision, Failed, Tries},
    },
    store::text::storable_value,
};

/// What becomes of an execution: the columns of its row.
pub(in crate::store) struct Next {
    pub(in crate::store) state: TaskState,
    pub(in crate::store) sleep: Option<(SleepReason, Duration, String)>,
    pub(super) resume: Option<Value>,
    pub(super) tries: i32,
    pub(super) lost: i32,
    pub(super) history: Option<History>,
    pub(super) output: Option<Value>,
}

pub(in crate::store) struct History {
    pub(super) outcome: Option<TryOutcome>,
    pub(super) reason: Option<String>,
    pub(super) hint: Option<String>,
    pub(super) failure_class: Option<FailureClass>,
    pub(super) exit_code: Option<i32>,
}

/// What becomes of it.
pub(super) fn what_next(ended: &Ended, task: &Task) -> Next {
    let execution = &ended.execution;
    let plain = |state, outcome, reason| Next {
        state,
        sleep: None,
        resume: None,
        tries: execution.tries,
        lost: 0,
        history: Some(History {
            outcome: Some(outcome),
            reason,
            hint: None,
            failure_class: None,
            exit_code: None,
        }),
        output: None,
    };
    // A try that begins again from its start was not begun; one that goes on after a sleep was begun long ago.
    let tries_before = if execution.continues {
        execution.tries
    } else {
        execution.tries - 1
    };
    match &ended.ending {
        Ending::Success { output } => Next {
            output: Some(storable_value(output)),
            ..plain(TaskState::Success, TryOutcome::Success, None)
        },
        Ending::Skipped { reason } => plain(
            TaskState::Skipped,
            TryOutcome::Skipped,
            Some(reason.clone()),
        ),
        Ending::Sleep {
            wake_after,
            reason,
            resume,
        } => Next {
            state: TaskState::Sleeping,
            sleep: Some((SleepReason::Deferred, *wake_after, reason.clone())),
            resume: Some(storable_value(resume)),
            tries: execution.tries,
            lost: 0,
            history: Some(History {
                outcome: None,
                reason: Some(reason.clone()),
                hint: None,
                failure_class: None,
                exit_code: None,
            }),
            output: None,
        },
        Ending::GivenBack | Ending::Expanded { .. } => Next {
            state: TaskState::Queued,
            sleep: None,
            resume: None,
            tries: tries_before,
            lost: 0,
            history: None,
            output: None,
        },
        Ending::Failed(failure) => {
            let is_lost = failure.class == FailureClass::Lost;
            let number = |value: i32| u32::try_from(value).unwrap_or(0);
            let decision = retry::decide(
                task,
                Failed {
                    class: failure.class,
                    exit_code: failure.exit_code,
                },
                Tries {
                    instance_id: execution.instance_id,
                    begun: number(execution.tries),
                    allowed: number(execution.tries_allowed),
                    lost: number(execution.lost) + u32::from(is_lost),
                },
            );
            let history = History {
                outcome: Some(outcome_of(failure.class)),
                reason: Some(failure.message.clone()),
                hint: failure.hint.clone(),
                failure_class: Some(failure.class),
                exit_code: failure.exit_code,
            };
            let (state, tries, sleep) = match decision {
                Decision::Fail { .. } => (TaskState::Failed, execution.tries, None),
                Decision::Again => (TaskState::Queued, tries_before, None),
                Decision::Retry { after } => (
                    TaskState::Sleeping,
                    execution.tries,
                    Some((SleepReason::Retry, after, failure.message.clone())),
                ),
            };
            Next {
                state,
                sleep,
                resume: None,
                tries,
                lost: i32::from(is_lost),
                history: Some(history),
                output: None,
            }
        }
    }
}

fn outcome_of(class: FailureClass) -> TryOutcome {
    match class {
        FailureClass::Retryable
        | FailureClass::Permanent
        | FailureClass::Panic
        | FailureClass::Killed => TryOutcome::Failed,
        FailureClass::Timeout => TryOutcome::Timeout,
        FailureClass::Lost => TryOutcome::Lost,
        FailureClass::Cancelled => TryOutcome::Cancelled,
    }
}

pub(super) fn class_name(class: FailureClass) -> &'static str {
    match class {
        FailureClass::Retryable => "retryable",
        FailureClass::Permanent => "permanent",
        FailureClass::Timeout => "timeout",
        FailureClass::Panic => "panic",
        FailureClass::Killed => "killed",
        FailureClass::Lost => "lost",
        FailureClass::Cancelled => "cancelled",
    }
}
