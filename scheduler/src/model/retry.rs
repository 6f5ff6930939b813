//! Whether and when a failed try is repeated.

use std::time::Duration;

use pinwheel_tasks::FailureClass;

use super::Task;

/// How many executions of one task instance may be lost with their worker before it fails. A task that takes its
/// worker down with it (memory, for one) would otherwise go round for ever, because a lost try costs no retry.
pub const LOST_ALLOWED: u32 = 10;

/// What happens after a failed execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The task sleeps for `after` and begins its next try.
    Retry {
        /// The pause.
        after: Duration,
    },
    /// The same try starts again at once; it does not count.
    Again,
    /// The task has failed.
    Fail {
        /// Why it is not tried again, for people.
        reason: String,
    },
}

/// Where a task instance stands when an execution of it has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tries {
    /// Tries begun, the failed one included.
    pub begun: u32,
    /// Tries that may begin; `retries` plus one, more after a clear.
    pub allowed: u32,
    /// Executions lost with their worker, the present one included.
    pub lost: u32,
}

/// The pause before the try that follows try number `tries`.
pub fn next_delay(task: &Task, tries: u32) -> Duration {
    let _constant_for_now = tries;
    task.retry_delay
}

/// Says what happens after an execution has failed with `class`.
pub fn decide(task: &Task, class: FailureClass, tries: Tries) -> Decision {
    match class {
        FailureClass::Permanent => Decision::Fail {
            reason: "the failure is permanent: trying again cannot help".to_owned(),
        },
        FailureClass::Cancelled => Decision::Fail {
            reason: "its run was cancelled".to_owned(),
        },
        FailureClass::Lost if tries.lost >= LOST_ALLOWED => Decision::Fail {
            reason: format!(
                "{} of its executions were lost with their worker; the task may be what brings the worker down",
                tries.lost
            ),
        },
        FailureClass::Lost => Decision::Again,
        FailureClass::Retryable
        | FailureClass::Timeout
        | FailureClass::Panic
        | FailureClass::Killed => {
            if tries.begun < tries.allowed {
                Decision::Retry {
                    after: next_delay(task, tries.begun),
                }
            } else {
                Decision::Fail {
                    reason: format!(
                        "no tries are left: {} of {} were used",
                        tries.begun, tries.allowed
                    ),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::model::{TaskId, TriggerRule};

    fn task() -> Task {
        Task {
            id: TaskId::new("load").expect("it is a name"),
            kind: "noop".to_owned(),
            upstream: Vec::new(),
            downstream: Vec::new(),
            trigger_rule: TriggerRule::AllSuccess,
            retries: 2,
            retry_delay: Duration::from_secs(30),
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

    const RETRIED: [FailureClass; 4] = [
        FailureClass::Retryable,
        FailureClass::Timeout,
        FailureClass::Panic,
        FailureClass::Killed,
    ];

    #[test]
    fn what_may_be_different_next_time_is_tried_as_often_as_allowed() {
        for class in RETRIED {
            for begun in 1..=2 {
                let decision = decide(
                    &task(),
                    class,
                    Tries {
                        begun,
                        allowed: 3,
                        lost: 0,
                    },
                );
                assert_eq!(
                    decision,
                    Decision::Retry {
                        after: Duration::from_secs(30)
                    },
                    "{class:?}"
                );
            }
            let decision = decide(
                &task(),
                class,
                Tries {
                    begun: 3,
                    allowed: 3,
                    lost: 0,
                },
            );
            assert_eq!(
                decision,
                Decision::Fail {
                    reason: "no tries are left: 3 of 3 were used".to_owned()
                }
            );
        }
    }

    #[test]
    fn what_cannot_help_is_not_tried_again() {
        for class in [FailureClass::Permanent, FailureClass::Cancelled] {
            let decision = decide(
                &task(),
                class,
                Tries {
                    begun: 1,
                    allowed: 3,
                    lost: 0,
                },
            );
            assert!(matches!(decision, Decision::Fail { .. }), "{class:?}");
        }
    }

    #[test]
    fn a_lost_try_costs_nothing_but_not_for_ever() {
        for lost in 1..LOST_ALLOWED {
            let decision = decide(
                &task(),
                FailureClass::Lost,
                Tries {
                    begun: 3,
                    allowed: 3,
                    lost,
                },
            );
            assert_eq!(decision, Decision::Again);
        }
        let decision = decide(
            &task(),
            FailureClass::Lost,
            Tries {
                begun: 1,
                allowed: 3,
                lost: LOST_ALLOWED,
            },
        );
        let Decision::Fail { reason } = decision else {
            panic!("it goes on for ever")
        };
        assert!(
            reason.starts_with("10 of its executions were lost"),
            "{reason}"
        );
    }
}
