//! When a task runs, given what became of its upstream tasks: Airflow's twelve rules with its measured meaning.
//!
//! One pure function gives the verdict and the reason a person is shown. A verdict other than *wait* is given as soon
//! as no later outcome can change it, so the final states do not depend on the order in which upstream tasks finish.
//! Where Airflow's would (a skip and a failure above `all_success`), failure wins.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// When a task runs, given what became of its direct upstream tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TriggerRule {
    /// All succeeded.
    #[default]
    AllSuccess,
    /// All failed, directly or by a failure further up.
    AllFailed,
    /// All are final, whatever became of them.
    AllDone,
    /// All are final, none was skipped, and one succeeded.
    AllDoneMinOneSuccess,
    /// All were skipped.
    AllSkipped,
    /// One failed, directly or by a failure further up; does not wait for the others.
    OneFailed,
    /// One succeeded; does not wait for the others.
    OneSuccess,
    /// One succeeded or failed itself; does not wait for the others.
    OneDone,
    /// None failed: all succeeded or were skipped.
    NoneFailed,
    /// None failed and one succeeded.
    NoneFailedMinOneSuccess,
    /// None was skipped: all succeeded or failed.
    NoneSkipped,
    /// At once, without waiting for anything.
    Always,
}

/// What became of the direct upstream tasks so far. The parts add up to `total`; a cancelled task counts as failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// All of them.
    pub total: u32,
    /// Not final yet.
    pub pending: u32,
    /// Succeeded.
    pub ok: u32,
    /// Failed themselves.
    pub failed: u32,
    /// Could not run because of a failure further up.
    pub upstream_failed: u32,
    /// Skipped.
    pub skipped: u32,
}

/// What a rule says now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A later outcome decides.
    Wait {
        /// For people.
        reason: String,
    },
    /// The task may run.
    Run {
        /// For people.
        reason: String,
    },
    /// The task is skipped.
    Skip {
        /// For people.
        reason: String,
    },
    /// The task cannot run because of a failure above.
    UpstreamFailed {
        /// For people.
        reason: String,
    },
}

impl Verdict {
    /// The reason, for people.
    pub fn reason(&self) -> &str {
        match self {
            Self::Wait { reason }
            | Self::Run { reason }
            | Self::Skip { reason }
            | Self::UpstreamFailed { reason } => reason,
        }
    }
}

impl TriggerRule {
    /// All twelve, in the order of the docs.
    pub const ALL: [Self; 12] = [
        Self::AllSuccess,
        Self::AllFailed,
        Self::AllDone,
        Self::AllDoneMinOneSuccess,
        Self::AllSkipped,
        Self::OneFailed,
        Self::OneSuccess,
        Self::OneDone,
        Self::NoneFailed,
        Self::NoneFailedMinOneSuccess,
        Self::NoneSkipped,
        Self::Always,
    ];

    /// The rule as a file says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AllSuccess => "all_success",
            Self::AllFailed => "all_failed",
            Self::AllDone => "all_done",
            Self::AllDoneMinOneSuccess => "all_done_min_one_success",
            Self::AllSkipped => "all_skipped",
            Self::OneFailed => "one_failed",
            Self::OneSuccess => "one_success",
            Self::OneDone => "one_done",
            Self::NoneFailed => "none_failed",
            Self::NoneFailedMinOneSuccess => "none_failed_min_one_success",
            Self::NoneSkipped => "none_skipped",
            Self::Always => "always",
        }
    }
}

impl fmt::Display for TriggerRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// A text that names no trigger rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown trigger rule `{0}`")]
pub struct Unknown(pub String);

impl FromStr for TriggerRule {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|rule| rule.as_str() == text)
            .ok_or_else(|| Unknown(text.to_owned()))
    }
}

/// Says whether a task with this rule waits for all of its upstream tasks when they succeed one by one, and runs then. Its
/// counters alone tell when that is.
pub fn runs_if_all_ok(rule: TriggerRule, total: u32) -> bool {
    let after = |ok: u32| {
        decide(
            rule,
            &Upstream {
                total,
                pending: total - ok,
                ok,
                failed: 0,
                upstream_failed: 0,
                skipped: 0,
            },
        )
    };
    let waits = (0..total).all(|ok| matches!(after(ok), Verdict::Wait { .. }));
    waits && matches!(after(total), Verdict::Run { .. })
}

/// Says what becomes of a task with this rule. A task without upstream tasks ignores its rule and runs.
pub fn decide(rule: TriggerRule, upstream: &Upstream) -> Verdict {
    let Upstream {
        total,
        pending,
        ok,
        failed,
        upstream_failed,
        skipped,
    } = *upstream;
    let bad = failed + upstream_failed;
    if total == 0 {
        return run("it has no upstream task");
    }
    let done = pending == 0;
    let wait = || Verdict::Wait {
        reason: format!("waiting for {pending} of {total} upstream {}", tasks(total)),
    };
    match rule {
        TriggerRule::AllSuccess if bad > 0 => above(format!("{} failed", of(bad, total))),
        TriggerRule::AllSuccess if !done => wait(),
        TriggerRule::AllSuccess if skipped > 0 => skip(format!("{} skipped", were(skipped, total))),
        TriggerRule::AllSuccess => run(format!("{} succeeded", all(total))),

        TriggerRule::AllFailed if ok > 0 => skip(format!("{} succeeded", of(ok, total))),
        TriggerRule::AllFailed if skipped > 0 => skip(format!("{} skipped", were(skipped, total))),
        TriggerRule::AllFailed if !done => wait(),
        TriggerRule::AllFailed => run(format!("{} failed", all(total))),

        TriggerRule::AllDone if !done => wait(),
        TriggerRule::AllDone => run(format!("{} done", all_are(total))),

        TriggerRule::AllDoneMinOneSuccess if skipped > 0 => {
            skip(format!("{} skipped", were(skipped, total)))
        }
        TriggerRule::AllDoneMinOneSuccess if !done => wait(),
        TriggerRule::AllDoneMinOneSuccess if ok == 0 => above(format!(
            "none of {total} upstream {} succeeded",
            tasks(total)
        )),
        TriggerRule::AllDoneMinOneSuccess => {
            run(format!("{} done and {ok} succeeded", all_are(total)))
        }

        TriggerRule::AllSkipped if ok > 0 => skip(format!("{} succeeded", of(ok, total))),
        TriggerRule::AllSkipped if bad > 0 => skip(format!("{} failed", of(bad, total))),
        TriggerRule::AllSkipped if !done => wait(),
        TriggerRule::AllSkipped => run(format!("{} skipped", all_were(total))),

        TriggerRule::OneFailed if bad > 0 => run(format!("{} failed", of(bad, total))),
        TriggerRule::OneFailed if !done => wait(),
        TriggerRule::OneFailed => skip(format!("none of {total} upstream {} failed", tasks(total))),

        TriggerRule::OneSuccess if ok > 0 => run(format!("{} succeeded", of(ok, total))),
        TriggerRule::OneSuccess if !done => wait(),
        TriggerRule::OneSuccess if skipped == total => skip(format!("{} skipped", all_were(total))),
        TriggerRule::OneSuccess => above(format!(
            "none of {total} upstream {} succeeded",
            tasks(total)
        )),

        TriggerRule::OneDone if ok + failed > 0 => run(format!("{} done", are(ok + failed, total))),
        TriggerRule::OneDone if !done => wait(),
        TriggerRule::OneDone => skip(format!("none of {total} upstream {} ran", tasks(total))),

        TriggerRule::NoneFailed | TriggerRule::NoneFailedMinOneSuccess if bad > 0 => {
            above(format!("{} failed", of(bad, total)))
        }
        TriggerRule::NoneFailed | TriggerRule::NoneFailedMinOneSuccess if !done => wait(),
        TriggerRule::NoneFailedMinOneSuccess if ok == 0 => {
            skip(format!("{} skipped", all_were(total)))
        }
        TriggerRule::NoneFailed | TriggerRule::NoneFailedMinOneSuccess => {
            run(format!("none of {total} upstream {} failed", tasks(total)))
        }

        TriggerRule::NoneSkipped if skipped > 0 => {
            skip(format!("{} skipped", were(skipped, total)))
        }
        TriggerRule::NoneSkipped if !done => wait(),
        TriggerRule::NoneSkipped => run(format!(
            "none of {total} upstream {} was skipped",
            tasks(total)
        )),

        TriggerRule::Always => run("its rule is `always`"),
    }
}

fn run(reason: impl Into<String>) -> Verdict {
    Verdict::Run {
        reason: reason.into(),
    }
}

fn skip(reason: impl Into<String>) -> Verdict {
    Verdict::Skip {
        reason: reason.into(),
    }
}

fn above(reason: impl Into<String>) -> Verdict {
    Verdict::UpstreamFailed {
        reason: reason.into(),
    }
}

fn tasks(count: u32) -> &'static str {
    if count == 1 { "task" } else { "tasks" }
}

fn of(count: u32, total: u32) -> String {
    format!("{count} of {total} upstream {}", tasks(total))
}

fn were(count: u32, total: u32) -> String {
    format!(
        "{} {}",
        of(count, total),
        if count == 1 { "was" } else { "were" }
    )
}

fn are(count: u32, total: u32) -> String {
    format!(
        "{} {}",
        of(count, total),
        if count == 1 { "is" } else { "are" }
    )
}

fn all(total: u32) -> String {
    if total == 1 {
        "its upstream task".to_owned()
    } else {
        format!("all {total} upstream tasks")
    }
}

fn all_are(total: u32) -> String {
    format!("{} {}", all(total), if total == 1 { "is" } else { "are" })
}

fn all_were(total: u32) -> String {
    format!("{} {}", all(total), if total == 1 { "was" } else { "were" })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of one upstream task.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    enum End {
        Ok,
        Failed,
        UpstreamFailed,
        Skipped,
    }
    use End::{Failed, Ok, Skipped, UpstreamFailed};

    const ENDS: [End; 4] = [Ok, Failed, UpstreamFailed, Skipped];

    /// What the rule comes to, read off the sentences of the docs and not off the code above.
    fn expected(rule: TriggerRule, ends: &[End]) -> &'static str {
        if ends.is_empty() {
            return "run";
        }
        let any = |wanted: &[End]| ends.iter().any(|end| wanted.contains(end));
        let only = |wanted: &[End]| ends.iter().all(|end| wanted.contains(end));
        match rule.as_str() {
            "all_success" if only(&[Ok]) => "run",
            "all_success" if only(&[Ok, Skipped]) => "skip",
            "all_success" => "upstream_failed",
            "all_failed" if only(&[Failed, UpstreamFailed]) => "run",
            "all_failed" => "skip",
            "all_done" | "always" => "run",
            "all_done_min_one_success" if any(&[Skipped]) => "skip",
            "all_done_min_one_success" if any(&[Ok]) => "run",
            "all_done_min_one_success" => "upstream_failed",
            "all_skipped" if only(&[Skipped]) => "run",
            "all_skipped" => "skip",
            "one_failed" if any(&[Failed, UpstreamFailed]) => "run",
            "one_failed" => "skip",
            "one_success" if any(&[Ok]) => "run",
            "one_success" if only(&[Skipped]) => "skip",
            "one_success" => "upstream_failed",
            "one_done" if any(&[Ok, Failed]) => "run",
            "one_done" => "skip",
            "none_failed" if only(&[Ok, Skipped]) => "run",
            "none_failed" => "upstream_failed",
            "none_failed_min_one_success" if any(&[Failed, UpstreamFailed]) => "upstream_failed",
            "none_failed_min_one_success" if any(&[Ok]) => "run",
            "none_failed_min_one_success" => "skip",
            "none_skipped" if any(&[Skipped]) => "skip",
            "none_skipped" => "run",
            other => panic!("no rule `{other}`"),
        }
    }

    fn word(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Wait { .. } => "wait",
            Verdict::Run { .. } => "run",
            Verdict::Skip { .. } => "skip",
            Verdict::UpstreamFailed { .. } => "upstream_failed",
        }
    }

    fn upstream(total: usize, arrived: &[End]) -> Upstream {
        let count = |wanted: End| {
            u32::try_from(arrived.iter().filter(|end| **end == wanted).count()).expect("few")
        };
        Upstream {
            total: u32::try_from(total).expect("few"),
            pending: u32::try_from(total - arrived.len()).expect("few"),
            ok: count(Ok),
            failed: count(Failed),
            upstream_failed: count(UpstreamFailed),
            skipped: count(Skipped),
        }
    }

    /// Every sequence of up to four ends: every combination in every order in which it can arrive.
    fn sequences() -> Vec<Vec<End>> {
        let mut all = vec![Vec::new()];
        let mut longest = all.clone();
        for _ in 0..4 {
            longest = longest
                .iter()
                .flat_map(|shorter: &Vec<End>| {
                    ENDS.map(|end| shorter.iter().copied().chain([end]).collect())
                })
                .collect();
            all.extend(longest.clone());
        }
        all
    }

    #[test]
    fn every_rule_comes_to_the_same_in_every_order_of_arrival() {
        let sequences = sequences();
        assert_eq!(sequences.len(), 1 + 4 + 16 + 64 + 256);
        for rule in TriggerRule::ALL {
            for ends in &sequences {
                let wanted = expected(rule, ends);
                // The first verdict that is not `wait` is the one that counts; what comes later must not contradict it.
                for arrived in 0..=ends.len() {
                    let verdict = decide(rule, &upstream(ends.len(), &ends[..arrived]));
                    let verdict_word = word(&verdict);
                    let waits = verdict_word == "wait" && arrived < ends.len();
                    assert!(
                        waits || verdict_word == wanted,
                        "{rule} after {:?} of {ends:?}: {verdict:?}",
                        &ends[..arrived]
                    );
                    assert!(!verdict.reason().is_empty());
                }
            }
        }
    }

    #[test]
    fn a_verdict_is_given_as_soon_as_nothing_can_change_it() {
        let sequences = sequences();
        for rule in TriggerRule::ALL {
            for ends in &sequences {
                for total in ends.len()..=4 {
                    let missing = total - ends.len();
                    let mut possible = sequences
                        .iter()
                        .filter(|rest| rest.len() == missing)
                        .map(|rest| expected(rule, &[ends.as_slice(), rest].concat()));
                    let one = possible.next().expect("there is a way to go on");
                    let one_only = possible.all(|word| word == one);
                    let verdict = decide(rule, &upstream(total, ends));
                    // A rule that runs when all are done waits for them, though nothing can change the verdict.
                    let waits_for_all = matches!(rule, TriggerRule::AllDone) && missing > 0;
                    assert_eq!(
                        word(&verdict) == "wait",
                        !one_only || waits_for_all,
                        "{rule} {ends:?} of {total}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_rules_that_wait_for_every_success_are_told_by_the_verdicts() {
        let waiting = |total| -> Vec<&str> {
            TriggerRule::ALL
                .into_iter()
                .filter(|rule| runs_if_all_ok(*rule, total))
                .map(TriggerRule::as_str)
                .collect()
        };
        let always_wait = [
            "all_success",
            "all_done",
            "all_done_min_one_success",
            "none_failed",
            "none_failed_min_one_success",
            "none_skipped",
        ];
        assert_eq!(waiting(3), always_wait);
        // With one upstream task there is nobody left to wait for.
        assert!(waiting(1).contains(&"one_success") && !waiting(1).contains(&"all_failed"));
    }

    #[test]
    fn only_five_rules_give_upstream_failed() {
        let giving: Vec<_> = TriggerRule::ALL
            .into_iter()
            .filter(|rule| {
                sequences().iter().any(|ends| {
                    word(&decide(*rule, &upstream(ends.len(), ends))) == "upstream_failed"
                })
            })
            .map(TriggerRule::as_str)
            .collect();
        assert_eq!(
            giving,
            [
                "all_success",
                "all_done_min_one_success",
                "one_success",
                "none_failed",
                "none_failed_min_one_success"
            ]
        );
    }

    #[test]
    fn reasons_are_for_people() {
        let reason = |rule, total, arrived: &[End]| {
            decide(rule, &upstream(total, arrived)).reason().to_owned()
        };
        assert_eq!(
            reason(TriggerRule::AllSuccess, 3, &[Ok]),
            "waiting for 2 of 3 upstream tasks"
        );
        assert_eq!(
            reason(TriggerRule::AllSuccess, 3, &[Failed]),
            "1 of 3 upstream tasks failed"
        );
        assert_eq!(
            reason(TriggerRule::AllSuccess, 2, &[Ok, Skipped]),
            "1 of 2 upstream tasks was skipped"
        );
        assert_eq!(
            reason(TriggerRule::AllSuccess, 1, &[]),
            "waiting for 1 of 1 upstream task"
        );
        assert_eq!(
            reason(TriggerRule::AllDone, 1, &[Ok]),
            "its upstream task is done"
        );
        assert_eq!(
            reason(TriggerRule::AllSkipped, 2, &[Skipped, Skipped]),
            "all 2 upstream tasks were skipped"
        );
        assert_eq!(
            reason(TriggerRule::AllSuccess, 0, &[]),
            "it has no upstream task"
        );
    }

    #[test]
    fn a_rule_is_read_as_it_is_written() {
        for rule in TriggerRule::ALL {
            assert_eq!(rule.to_string().parse(), Result::Ok(rule));
            assert_eq!(
                serde_json::to_value(rule).expect("it is JSON"),
                rule.as_str()
            );
        }
        assert!("all_sucess".parse::<TriggerRule>().is_err());
    }
}
