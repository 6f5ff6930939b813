//! Whether and when a failed try is repeated.

use std::{fmt, str::FromStr, time::Duration};

use pinwheel_tasks::FailureClass;
use serde::{Deserialize, Serialize};

use super::{InstanceId, Task};

/// How many executions of one task instance may be lost with their worker before it fails. A task that takes its
/// worker down with it (memory, for one) would otherwise go round for ever, because a lost try costs no retry.
pub const LOST_ALLOWED: u32 = 10;

/// The longest pause that growing pauses reach when the file sets no other limit: Airflow's `max_task_retry_delay`.
pub const LONGEST_DELAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How pauses between tries grow, and which failures are tried again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetryRules {
    /// Each pause is so many times as long as the one before; 1 keeps them equal.
    pub factor: f64,
    /// No pause is longer; `None` is [`LONGEST_DELAY`] for pauses that grow.
    pub max_delay: Option<Duration>,
    /// Up to this share of a pause, 0 to 1, is left off, differently for every task instance and try.
    pub jitter: f64,
    /// Only these failures are tried again; empty is all that may be different next time.
    pub on: Vec<RetryOn>,
    /// These are not.
    pub not_on: Vec<RetryOn>,
}

impl Default for RetryRules {
    fn default() -> Self {
        Self {
            factor: 1.0,
            max_delay: None,
            jitter: 0.0,
            on: Vec::new(),
            not_on: Vec::new(),
        }
    }
}

impl RetryRules {
    /// Whether they say nothing of their own.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A kind of failure, as `retry_on` and `no_retry_on` name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RetryOn {
    /// `error`: the task itself said that it failed, whatever its exit code.
    Error,
    /// `timeout`: the try ran longer than its `timeout`.
    Timeout,
    /// `panic`: the code of the task's kind panicked.
    Panic,
    /// `killed`: its process was ended by a signal that Pinwheel did not send.
    Killed,
    /// `exit:75` or `exit:64-78`: its process ended with such an exit code.
    Exit {
        /// The smallest.
        first: i32,
        /// The largest.
        last: i32,
    },
}

impl RetryOn {
    /// The words that are no exit codes.
    pub const WORDS: [(&str, Self); 4] = [
        ("error", Self::Error),
        ("timeout", Self::Timeout),
        ("panic", Self::Panic),
        ("killed", Self::Killed),
    ];

    fn holds(self, failed: Failed) -> bool {
        match self {
            Self::Error => failed.class == FailureClass::Retryable,
            Self::Timeout => failed.class == FailureClass::Timeout,
            Self::Panic => failed.class == FailureClass::Panic,
            Self::Killed => failed.class == FailureClass::Killed,
            Self::Exit { first, last } => failed
                .exit_code
                .is_some_and(|code| (first..=last).contains(&code)),
        }
    }
}

impl fmt::Display for RetryOn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit { first, last } if first == last => write!(formatter, "exit:{first}"),
            Self::Exit { first, last } => write!(formatter, "exit:{first}-{last}"),
            Self::Error => formatter.write_str("error"),
            Self::Timeout => formatter.write_str("timeout"),
            Self::Panic => formatter.write_str("panic"),
            Self::Killed => formatter.write_str("killed"),
        }
    }
}

/// A text that names no kind of failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` names no failure: expected `error`, `timeout`, `panic`, `killed`, `exit:75` or `exit:64-78`"
)]
pub struct Unknown(pub String);

impl FromStr for RetryOn {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        if let Some((_, found)) = Self::WORDS.iter().find(|(word, _)| *word == text) {
            return Ok(*found);
        }
        let unknown = || Unknown(text.to_owned());
        let codes = text.strip_prefix("exit:").ok_or_else(unknown)?;
        let (first, last) = codes.split_once('-').unwrap_or((codes, codes));
        // A process tells the lowest eight bits of what it exits with.
        let code = |text: &str| text.parse::<u8>().map(i32::from).map_err(|_| unknown());
        let (first, last) = (code(first)?, code(last)?);
        if first > last {
            return Err(unknown());
        }
        Ok(Self::Exit { first, last })
    }
}

impl TryFrom<String> for RetryOn {
    type Error = Unknown;

    fn try_from(text: String) -> Result<Self, Unknown> {
        text.parse()
    }
}

impl From<RetryOn> for String {
    fn from(found: RetryOn) -> Self {
        found.to_string()
    }
}

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

/// How an execution failed, as far as trying again is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// In which way.
    pub class: FailureClass,
    /// With which exit code, where a process ended.
    pub exit_code: Option<i32>,
}

/// Where a task instance stands when an execution of it has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tries {
    /// Which task instance.
    pub instance_id: InstanceId,
    /// Tries begun, the failed one included.
    pub begun: u32,
    /// Tries that may begin; `retries` plus one, more after a clear.
    pub allowed: u32,
    /// Executions lost with their worker, the present one included.
    pub lost: u32,
}

impl Tries {
    /// Tries begun since the last clear, which gives as many as a fresh task instance has.
    fn since_clear(self, task: &Task) -> u32 {
        let before = self.allowed.saturating_sub(task.retries.saturating_add(1));
        self.begun.saturating_sub(before)
    }
}

/// The pause before the next try. The same for the same task instance and try, wherever it is asked.
pub fn next_delay(task: &Task, tries: Tries) -> Duration {
    // Nothing grows by no factor, and nothing times infinity would be no number.
    if task.retry_delay.is_zero() {
        return Duration::ZERO;
    }
    let rules = &task.retry;
    let earlier = tries.since_clear(task).saturating_sub(1);
    let grown = task.retry_delay.as_secs_f64()
        * rules
            .factor
            .powi(i32::try_from(earlier).unwrap_or(i32::MAX));
    let longest = match rules.max_delay {
        Some(longest) => longest,
        None if rules.factor > 1.0 => LONGEST_DELAY.max(task.retry_delay),
        None => task.retry_delay,
    };
    // Infinity and, should a definition be odd, not-a-number are the longest pause.
    let pause = grown.min(longest.as_secs_f64());
    let left_off = rules.jitter.clamp(0.0, 1.0) * share(tries.instance_id, tries.begun);
    Duration::try_from_secs_f64(pause * (1.0 - left_off)).unwrap_or(longest)
}

/// A number from 0 up to but without 1 that looks random: splitmix64 of the task instance and the try.
fn share(instance: InstanceId, number: u32) -> f64 {
    let mut mixed = instance
        .0
        .cast_unsigned()
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(u64::from(number));
    mixed = mixed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    // 53 bits are what a double holds exactly.
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

/// Says what happens after an execution has failed.
pub fn decide(task: &Task, failed: Failed, tries: Tries) -> Decision {
    match failed.class {
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
        | FailureClass::Killed => match refusal(&task.retry, failed) {
            // Without retries there is nothing that the rules forbid.
            Some(reason) if task.retries > 0 => Decision::Fail { reason },
            Some(_) | None if tries.begun < tries.allowed => Decision::Retry {
                after: next_delay(task, tries),
            },
            Some(_) | None => Decision::Fail {
                reason: format!(
                    "no tries are left: {} of {} were used",
                    tries.begun, tries.allowed
                ),
            },
        },
    }
}

/// Why the rules do not let a failure be tried again.
fn refusal(rules: &RetryRules, failed: Failed) -> Option<String> {
    if let Some(found) = rules.not_on.iter().find(|on| on.holds(failed)) {
        return Some(format!("`no_retry_on` names `{found}`"));
    }
    if rules.on.is_empty() || rules.on.iter().any(|on| on.holds(failed)) {
        return None;
    }
    let named: Vec<String> = rules.on.iter().map(|on| format!("`{on}`")).collect();
    Some(format!("`retry_on` names only {}", named.join(", ")))
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
            retry: RetryRules::default(),
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

    fn failed(class: FailureClass) -> Failed {
        Failed {
            class,
            exit_code: None,
        }
    }

    fn tries(begun: u32, allowed: u32) -> Tries {
        Tries {
            instance_id: InstanceId(7),
            begun,
            allowed,
            lost: 0,
        }
    }

    fn on(texts: &[&str]) -> Vec<RetryOn> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
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
                    failed(class),
                    Tries {
                        instance_id: InstanceId(1),
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
                failed(class),
                Tries {
                    instance_id: InstanceId(1),
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
                failed(class),
                Tries {
                    instance_id: InstanceId(1),
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
                failed(FailureClass::Lost),
                Tries {
                    instance_id: InstanceId(1),
                    begun: 3,
                    allowed: 3,
                    lost,
                },
            );
            assert_eq!(decision, Decision::Again);
        }
        let decision = decide(
            &task(),
            failed(FailureClass::Lost),
            Tries {
                instance_id: InstanceId(1),
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

    #[test]
    fn pauses_grow_by_the_factor_up_to_the_cap_and_begin_anew_after_a_clear() {
        let mut growing = task();
        growing.retries = 5;
        growing.retry.factor = 2.0;
        growing.retry.max_delay = Some(Duration::from_secs(150));
        let seconds = |begun, allowed| next_delay(&growing, tries(begun, allowed)).as_secs();
        let fresh: Vec<u64> = (1..=5).map(|begun| seconds(begun, 6)).collect();
        assert_eq!(fresh, [30, 60, 120, 150, 150]);
        // Cleared after its third try: it may have six more, and the fourth is the first of them.
        let cleared: Vec<u64> = (4..=6).map(|begun| seconds(begun, 9)).collect();
        assert_eq!(cleared, [30, 60, 120]);
    }

    #[test]
    fn pauses_that_grow_without_a_cap_end_at_a_day() {
        let mut growing = task();
        growing.retries = 1_000;
        growing.retry.factor = 100.0;
        assert_eq!(next_delay(&growing, tries(900, 1_001)), LONGEST_DELAY);
        growing.retry_delay = 2 * LONGEST_DELAY;
        assert_eq!(next_delay(&growing, tries(900, 1_001)), 2 * LONGEST_DELAY);
    }

    #[test]
    fn jitter_leaves_off_its_share_at_most_and_is_the_same_whoever_asks() {
        let mut jittered = task();
        jittered.retry.jitter = 0.5;
        let mut seen = Vec::new();
        for instance in 0..1_000 {
            let tries = Tries {
                instance_id: InstanceId(instance),
                ..tries(1, 3)
            };
            let pause = next_delay(&jittered, tries);
            assert_eq!(pause, next_delay(&jittered, tries));
            assert!(pause > Duration::from_secs(15) && pause <= Duration::from_secs(30));
            seen.push(pause);
        }
        let mean = seen.iter().sum::<Duration>().as_secs_f64() / 1_000.0;
        assert!((21.5..23.5).contains(&mean), "{mean}");
        seen.sort_unstable();
        seen.dedup();
        assert!(seen.len() > 990, "they differ");
        assert_eq!(
            next_delay(&jittered, tries(1, 3)),
            Duration::from_secs_f64(30.0 * (1.0 - 0.5 * share(InstanceId(7), 1)))
        );
    }

    #[test]
    fn only_what_the_rules_name_is_tried_again() {
        let mut picky = task();
        picky.retry.on = on(&["exit:75", "exit:64-66", "timeout"]);
        picky.retry.not_on = on(&["exit:65"]);
        let decision = |class, exit_code| decide(&picky, Failed { class, exit_code }, tries(1, 3));
        let retried = Decision::Retry {
            after: Duration::from_secs(30),
        };
        for code in [75, 64, 66] {
            assert_eq!(decision(FailureClass::Retryable, Some(code)), retried);
        }
        assert_eq!(decision(FailureClass::Timeout, None), retried);
        let refused = |reason: &str| Decision::Fail {
            reason: reason.to_owned(),
        };
        assert_eq!(
            decision(FailureClass::Retryable, Some(65)),
            refused("`no_retry_on` names `exit:65`")
        );
        for (class, code) in [
            (FailureClass::Retryable, Some(1)),
            (FailureClass::Retryable, None),
            (FailureClass::Killed, None),
            (FailureClass::Panic, None),
        ] {
            assert_eq!(
                decision(class, code),
                refused("`retry_on` names only `exit:75`, `exit:64-66`, `timeout`")
            );
        }
        assert!(
            matches!(
                decision(FailureClass::Permanent, Some(75)),
                Decision::Fail { .. }
            ),
            "what cannot help is never tried again"
        );
        assert_eq!(decision(FailureClass::Lost, None), Decision::Again);
    }

    #[test]
    fn failures_are_read_as_they_are_written() {
        for text in [
            "error",
            "timeout",
            "panic",
            "killed",
            "exit:0",
            "exit:64-78",
        ] {
            assert_eq!(text.parse::<RetryOn>().unwrap().to_string(), text);
        }
        for text in [
            "", "exit", "exit:", "exit:256", "exit:-1", "exit:9-8", "Timeout", "75",
        ] {
            assert!(text.parse::<RetryOn>().is_err(), "{text}");
        }
    }
}
