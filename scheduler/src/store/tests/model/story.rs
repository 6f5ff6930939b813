//! What the model-based tests generate: a DAG with what its tasks do, and what people, workers and schedulers do meanwhile.

use std::{collections::BTreeSet, time::Duration};

use pinwheel_tasks::{Failure, FailureClass};
use proptest::prelude::*;
use serde_json::json;

use super::super::{Claimed, Ending};
use crate::{
    model::{Concurrency, Dag, TriggerRule},
    store::{ClearScope, MarkedAs},
    testing::dag,
};

/// The pool that has a limit.
pub(super) const NARROW: &str = "narrow";
/// Its slots. A task that takes more gets all of them.
pub(super) const NARROW_SLOTS: i32 = 2;
/// What each worker serves.
pub(super) const QUEUES: [&[&str]; 3] = [&["default"], &["default", "other"], &["other"]];
/// A sleep is over after a minute, a retry begins after an hour: a clock that is ten minutes ahead tells them apart.
pub(super) const NAP: Duration = Duration::from_secs(60);

/// A DAG, and what happens to it in which order.
#[derive(Debug, Clone)]
pub(super) struct Story<Step> {
    pub(super) plan: Plan,
    pub(super) steps: Vec<Step>,
}

/// A DAG with what its tasks do.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    tasks: Vec<TaskPlan>,
    max_active_runs: u32,
    max_active_tasks: Option<u32>,
    /// Its runs may not take for ever.
    is_limited: bool,
}

#[derive(Debug, Clone)]
struct TaskPlan {
    upstream: Vec<bool>,
    rule: TriggerRule,
    allow_failure: bool,
    retries: u32,
    slots: u32,
    priority: i32,
    is_narrow: bool,
    is_elsewhere: bool,
    /// Never at the same time as another one of any run of which that is true.
    is_alone: bool,
    /// It may not be queued for ever.
    is_impatient: bool,
    /// Every try sleeps once before it does anything.
    naps: bool,
    /// Failed tries before the last word, counted from the last clear.
    failures: u32,
    last_word: LastWord,
}

/// How a task ends when its failures are behind it.
#[derive(Debug, Clone, Copy)]
enum LastWord {
    Success,
    Failure,
    Skip,
}

/// How an execution ends in the part of a story that is left to chance.
#[derive(Debug, Clone, Copy)]
pub(super) enum Chance {
    Success,
    Output,
    Skip,
    Sleep,
    GiveBack,
    Fail(FailureClass),
}

/// Which run of the story a step is about, and which of its tasks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pick(pub(super) u8);

impl Pick {
    /// One of `count`, or none of none.
    pub(super) fn of(self, count: usize) -> Option<usize> {
        usize::from(self.0).checked_rem(count)
    }
}

/// What a clear is about.
#[derive(Debug, Clone, Copy)]
pub(super) enum Selection {
    WholeRun,
    Failed,
    Tasks(Pick, Pick),
}

/// What a mark is about, and how that ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks {
    /// These, or the run itself.
    pub(super) tasks: Option<(Pick, Pick)>,
    pub(super) marked: MarkedAs,
}

/// How far ahead of the database the clock of a wake-up is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// Not at all.
    Now,
    /// Past every sleep.
    Soon,
    /// Past every retry.
    Later,
}

/// One step of a story in which everything happens one after the other.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Claim {
        worker: Pick,
        slots: u8,
    },
    /// A worker settles a part of what it holds (a bit for each), and claims in the same transaction if it wants slots.
    Settle {
        worker: Pick,
        part: u8,
        endings: Vec<Chance>,
        slots: u8,
    },
    /// The same, and the answer is lost: the batch is settled once more.
    SettleTwice {
        worker: Pick,
        part: u8,
        endings: Vec<Chance>,
    },
    /// The database's clock passes the end of a lease.
    Expire {
        worker: Pick,
    },
    Reap,
    Renew {
        worker: Pick,
    },
    Wake(Due),
    Trigger,
    Cancel(Pick),
    Clear {
        run: Pick,
        selection: Selection,
        scope: ClearScope,
    },
    Mark {
        run: Pick,
        marks: Marks,
    },
    /// The database's clock passes every limit of what is queued or runs.
    TimeOut,
    Pause,
    Unpause,
    /// What may be claimed and what wakes is rebuilt, in good order or after it was lost.
    Rebuild {
        lost: bool,
    },
}

pub(super) fn plan() -> impl Strategy<Value = Plan> {
    let shape = (
        prop::collection::vec(prop::bool::weighted(0.35), 12),
        prop::sample::select(TriggerRule::ALL.to_vec()),
        prop::bool::weighted(0.2),
        0..=2_u32,
    );
    let place = (
        1..=3_u32,
        -1..=2_i32,
        prop::bool::weighted(0.35),
        prop::bool::weighted(0.25),
        prop::bool::weighted(0.15),
        prop::bool::weighted(0.2),
    );
    let ends = (
        prop::bool::weighted(0.2),
        prop_oneof![3 => Just(0_u32), 1 => 1..=2_u32],
        prop_oneof![
            3 => Just(LastWord::Success),
            1 => Just(LastWord::Failure),
            1 => Just(LastWord::Skip)
        ],
    );
    let task = (shape, place, ends).prop_map(|(shape, place, ends)| {
        let (upstream, rule, allow_failure, retries) = shape;
        let (slots, priority, is_narrow, is_elsewhere, is_alone, is_impatient) = place;
        let (naps, failures, last_word) = ends;
        TaskPlan {
            upstream,
            rule,
            allow_failure,
            retries,
            slots,
            priority,
            is_narrow,
            is_elsewhere,
            is_alone,
            is_impatient,
            naps,
            failures,
            last_word,
        }
    });
    let limits = (
        1..=2_u32,
        prop::option::weighted(0.3, 1..=3_u32),
        prop::bool::weighted(0.3),
    );
    (prop::collection::vec(task, 1..=12), limits).prop_map(
        |(tasks, (max_active_runs, max_active_tasks, is_limited))| Plan {
            tasks,
            max_active_runs,
            max_active_tasks,
            is_limited,
        },
    )
}

pub(super) fn story() -> impl Strategy<Value = Story<Step>> {
    (plan(), prop::collection::vec(step(), 10..=60)).prop_map(|(plan, steps)| Story { plan, steps })
}

fn step() -> impl Strategy<Value = Step> {
    let endings = || prop::collection::vec(chance(), 1..=4);
    prop_oneof![
        6 => (pick(), 0..=5_u8).prop_map(|(worker, slots)| Step::Claim { worker, slots }),
        8 => (pick(), any::<u8>(), endings(), 0..=3_u8).prop_map(|(worker, part, endings, slots)| Step::Settle {
            worker, part, endings, slots
        }),
        2 => (pick(), any::<u8>(), endings()).prop_map(|(worker, part, endings)| Step::SettleTwice {
            worker, part, endings
        }),
        2 => pick().prop_map(|worker| Step::Expire { worker }),
        2 => Just(Step::Reap),
        2 => pick().prop_map(|worker| Step::Renew { worker }),
        3 => prop::sample::select(vec![Due::Now, Due::Soon, Due::Later]).prop_map(Step::Wake),
        1 => Just(Step::Trigger),
        1 => pick().prop_map(Step::Cancel),
        3 => (pick(), selection(), scope()).prop_map(|(run, selection, scope)| Step::Clear {
            run, selection, scope
        }),
        2 => (pick(), marks()).prop_map(|(run, marks)| Step::Mark { run, marks }),
        1 => Just(Step::TimeOut),
        1 => Just(Step::Pause),
        1 => Just(Step::Unpause),
        1 => any::<bool>().prop_map(|lost| Step::Rebuild { lost }),
    ]
}

pub(super) fn pick() -> impl Strategy<Value = Pick> {
    any::<u8>().prop_map(Pick)
}

pub(super) fn selection() -> impl Strategy<Value = Selection> {
    prop_oneof![
        1 => Just(Selection::WholeRun),
        2 => Just(Selection::Failed),
        4 => (pick(), pick()).prop_map(|(one, other)| Selection::Tasks(one, other)),
    ]
}

pub(super) fn scope() -> impl Strategy<Value = ClearScope> {
    use ClearScope::{Only, WithBoth, WithDownstream, WithUpstream};
    prop::sample::select(vec![
        Only,
        WithDownstream,
        WithDownstream,
        WithUpstream,
        WithBoth,
    ])
}

pub(super) fn marks() -> impl Strategy<Value = Marks> {
    let tasks = prop::option::weighted(0.7, (pick(), pick()));
    let marked = prop::sample::select(vec![MarkedAs::Success, MarkedAs::Failed]);
    (tasks, marked).prop_map(|(tasks, marked)| Marks { tasks, marked })
}

fn chance() -> impl Strategy<Value = Chance> {
    use FailureClass::{Killed, Panic, Permanent, Retryable, Timeout};
    prop_oneof![
        4 => Just(Chance::Success),
        2 => Just(Chance::Output),
        1 => Just(Chance::Skip),
        2 => Just(Chance::Sleep),
        1 => Just(Chance::GiveBack),
        5 => prop::sample::select(vec![Retryable, Retryable, Permanent, Panic, Timeout, Killed]).prop_map(Chance::Fail),
    ]
}

impl Plan {
    pub(super) fn dag(&self, id: &str) -> Dag {
        let names: Vec<String> = (0..self.tasks.len())
            .map(|number| format!("t{number}"))
            .collect();
        let above: Vec<Vec<&str>> = self
            .tasks
            .iter()
            .enumerate()
            .map(|(number, task)| {
                (0..number)
                    .filter(|above| task.upstream[*above])
                    .map(|above| names[above].as_str())
                    .collect()
            })
            .collect();
        let tasks: Vec<(&str, &[&str])> = names
            .iter()
            .zip(&above)
            .map(|(name, above)| (name.as_str(), above.as_slice()))
            .collect();
        let mut made = dag(id, &tasks);
        made.max_active_runs = self.max_active_runs;
        made.max_active_tasks = self.max_active_tasks;
        made.timeout = self.is_limited.then_some(NAP);
        for (task, plan) in made.tasks.iter_mut().zip(&self.tasks) {
            task.trigger_rule = plan.rule;
            task.allow_failure = plan.allow_failure;
            task.retries = plan.retries;
            task.slots = plan.slots;
            task.priority = plan.priority;
            task.queue_timeout = plan.is_impatient.then_some(NAP);
            if plan.is_narrow {
                task.pool = NARROW.to_owned();
            }
            if plan.is_elsewhere {
                task.queue = "other".to_owned();
            }
            task.concurrency = plan.is_alone.then(|| Concurrency {
                key: "alone".to_owned(),
                limit: 1,
            });
        }
        made
    }

    /// How an execution ends when nothing is left to chance. It depends on the task and on how many tries of it were begun
    /// since the last clear, so however often a run is cleared, its tasks end in the same states.
    pub(super) fn ending(&self, claimed: &Claimed) -> Ending {
        let execution = &claimed.execution;
        let plan = self.task(execution.ordinal);
        if plan.naps && !execution.continues {
            return Chance::Sleep.ending();
        }
        let retries = i32::try_from(plan.retries).unwrap();
        let since_clear = execution.tries - (execution.tries_allowed - 1 - retries);
        if since_clear <= i32::try_from(plan.failures).unwrap() {
            return Chance::Fail(FailureClass::Retryable).ending();
        }
        match plan.last_word {
            LastWord::Success => Chance::Success.ending(),
            LastWord::Failure => Chance::Fail(FailureClass::Permanent).ending(),
            LastWord::Skip => Chance::Skip.ending(),
        }
    }

    /// What becomes of a task that runs, by [`Plan::ending`].
    pub(super) fn outcome(&self, ordinal: usize) -> crate::model::TaskState {
        let plan = &self.tasks[ordinal];
        if plan.failures > plan.retries {
            return crate::model::TaskState::Failed;
        }
        match plan.last_word {
            LastWord::Success => crate::model::TaskState::Success,
            LastWord::Failure => crate::model::TaskState::Failed,
            LastWord::Skip => crate::model::TaskState::Skipped,
        }
    }

    fn task(&self, ordinal: i32) -> &TaskPlan {
        &self.tasks[usize::try_from(ordinal).unwrap()]
    }
}

impl Chance {
    pub(super) fn ending(self) -> Ending {
        match self {
            Self::Success => Ending::Success { output: json!({}) },
            Self::Output => Ending::Success {
                output: json!({ "rows": 1 }),
            },
            Self::Skip => Ending::Skipped {
                reason: "nothing to do".to_owned(),
            },
            Self::Sleep => Ending::Sleep {
                wake_after: NAP,
                reason: "later".to_owned(),
                resume: json!({ "page": 2 }),
            },
            Self::GiveBack => Ending::GivenBack,
            Self::Fail(class) => Ending::Failed(Failure {
                class,
                message: "it went wrong".to_owned(),
                hint: None,
                exit_code: None,
            }),
        }
    }
}

/// Takes what has its bit set out of a worker's hands; of one task instance only the execution that it has held longest.
pub(super) fn take_part(hand: &mut Vec<Claimed>, part: u8) -> Vec<Claimed> {
    let mut instances = BTreeSet::new();
    let (taken, kept): (Vec<_>, Vec<_>) =
        std::mem::take(hand)
            .into_iter()
            .enumerate()
            .partition(|(position, one)| {
                part >> (position % 8) & 1 == 1 && instances.insert(one.execution.instance_id)
            });
    hand.extend(kept.into_iter().map(|(_, one)| one));
    taken.into_iter().map(|(_, one)| one).collect()
}
