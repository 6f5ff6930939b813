//! Plays a story whose steps are several things at the same time: on connections of their own, as from as many processes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use futures::{
    FutureExt,
    future::{LocalBoxFuture, join_all},
};
use proptest::prelude::*;

use super::{
    super::calls::{LEASE, claim, rebuild, register, settle_and_claim},
    super::{
        ClearRequest, ClearScope, ClearSelection, Ended, Ending, Error, Paused, ended, expire,
    },
    recount::{history, recount},
    story::{
        Marks, Pick, Plan, QUEUES, Selection, Story, marks, pick, plan, scope, selection, take_part,
    },
    world::ends,
};
use crate::{
    model::{
        Alerts, Dag, Deadline, Event, InstanceId, Notify, Origin, Params, RunId, RunKind, RunState,
        TaskId, TaskState, WorkerId,
    },
    store::{Claimed, ClearVersion, MarkRequest, MarkSelection, NewRun, Settled, Store},
    testing::{publish, run_state, states},
};

/// So many runs of one story at most.
const MOST_RUNS: usize = 4;
/// So many leases of one story end at most: a task whose executions are lost too often fails.
const MOST_LOST: usize = 6;
/// So often everybody may claim and settle before a story must be over.
const ROUNDS: usize = 200;
/// So often something is begun again that Postgres ended for the sake of others, as the engine would.
const ATTEMPTS: usize = 10;

/// What happens at the same time.
#[derive(Debug, Clone)]
pub(super) struct Moment {
    /// The lease of this worker is over when it begins.
    expires: Option<Pick>,
    acts: Vec<Act>,
}

#[derive(Debug, Clone)]
enum Act {
    Claim {
        worker: Pick,
        slots: u8,
    },
    /// A worker settles a part of what it holds (a bit for each), and claims if it wants slots. Several settle disjoint
    /// parts.
    Settle {
        worker: Pick,
        part: u8,
        slots: u8,
        gives_back: bool,
    },
    Renew {
        worker: Pick,
    },
    Reap,
    Wake,
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
    TimeOut,
    SetPaused(bool),
    Rebuild,
}

/// What came of an act, as far as a worker cares.
enum Answer {
    Nothing,
    Claimed(usize, Vec<Claimed>),
    Settled(usize, Vec<Ended>, Settled, Vec<Claimed>),
    /// The worker's lease had ended.
    Ended(usize),
    Made(RunId),
}

pub(super) fn story() -> impl Strategy<Value = Story<Moment>> {
    (plan(), prop::collection::vec(moment(), 5..=20))
        .prop_map(|(plan, steps)| Story { plan, steps })
}

fn moment() -> impl Strategy<Value = Moment> {
    (
        prop::option::weighted(0.2, pick()),
        prop::collection::vec(act(), 2..=5),
    )
        .prop_map(|(expires, acts)| Moment { expires, acts })
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (pick(), 1..=4_u8).prop_map(|(worker, slots)| Act::Claim { worker, slots }),
        12 => (pick(), any::<u8>(), 0..=3_u8, prop::bool::weighted(0.1)).prop_map(
            |(worker, part, slots, gives_back)| Act::Settle { worker, part, slots, gives_back }
        ),
        2 => pick().prop_map(|worker| Act::Renew { worker }),
        4 => Just(Act::Reap),
        3 => Just(Act::Wake),
        2 => Just(Act::Trigger),
        2 => pick().prop_map(Act::Cancel),
        4 => (pick(), selection(), scope()).prop_map(|(run, selection, scope)| Act::Clear {
            run, selection, scope
        }),
        3 => (pick(), marks()).prop_map(|(run, marks)| Act::Mark { run, marks }),
        1 => Just(Act::TimeOut),
        1 => any::<bool>().prop_map(Act::SetPaused),
        1 => Just(Act::Rebuild),
    ]
}

struct Crowd<'a> {
    store: &'a Store,
    plan: &'a Plan,
    dag: Dag,
    runs: Vec<RunId>,
    /// Runs that were asked for, the ones included that are on their way.
    asked: usize,
    /// The lease each worker has now.
    leases: Vec<WorkerId>,
    /// What each worker believes to hold.
    hands: Vec<Vec<Claimed>>,
    seen: BTreeSet<(InstanceId, i32)>,
    given_back: BTreeSet<(InstanceId, i32)>,
    /// Late results are only expected of these.
    expired: BTreeSet<WorkerId>,
    /// What people have decided otherwise.
    cancelled: BTreeSet<RunId>,
    /// So may any run have been.
    has_timed_out: bool,
    repeats: &'a AtomicUsize,
}

/// Plays a story until every run is final; what was cancelled runs again from the start.
pub(super) async fn play(store: &Store, story: &Story<Moment>, id: &str) {
    let mut dag = story.plan.dag(id);
    // The others are settled by fewer statements.
    let tells = dag.tasks.len().is_multiple_of(2);
    if tells {
        dag.alerts = everything(&dag);
    }
    publish(store, &dag).await;
    let repeats = AtomicUsize::new(0);
    let mut crowd = Crowd {
        store,
        plan: &story.plan,
        dag,
        runs: Vec::new(),
        asked: 0,
        leases: Vec::new(),
        hands: QUEUES.iter().map(|_| Vec::new()).collect(),
        seen: BTreeSet::new(),
        given_back: BTreeSet::new(),
        expired: BTreeSet::new(),
        cancelled: BTreeSet::new(),
        has_timed_out: false,
        repeats: &repeats,
    };
    for queues in QUEUES {
        let lease = register(store, queues).await;
        crowd.leases.push(lease);
    }
    crowd.live(&Moment::of(Act::Trigger)).await;
    for moment in &story.steps {
        crowd.live(moment).await;
        recount(store).await;
    }
    crowd.live(&Moment::of(Act::SetPaused(false))).await;
    crowd.drain().await;
    if crowd.has_timed_out {
        crowd.cancelled.extend(crowd.runs.iter().copied());
    }
    for run_id in crowd.cancelled.clone() {
        let again = request(run_id, ClearSelection::WholeRun, ClearScope::Only);
        store.clear(again).await.unwrap();
    }
    crowd.drain().await;
    crowd.check_ends().await;
    if tells {
        crowd.check_told().await;
    }
    assert_eq!(
        repeats.load(Ordering::Relaxed),
        0,
        "locks are taken in one order, so nobody waits in a circle"
    );
    for lease in crowd.leases {
        store.resign(lease).await.unwrap();
    }
}

/// Everything that a DAG can tell.
fn everything(dag: &Dag) -> Alerts {
    let tasks: Vec<TaskId> = dag.tasks.iter().map(|task| task.id.clone()).collect();
    let notify = |tasks| Notify {
        on: Event::ALL.to_vec(),
        to: "ops".to_owned(),
        tasks,
        cool_down: Duration::from_secs(60),
    };
    let within = |from: Origin, hours: u64, task| Deadline {
        name: format!("{hours} hours from {}", from.as_str()),
        from,
        after: Duration::from_secs(hours * 3600),
        task,
    };
    Alerts {
        no_success_for: Some(Duration::from_secs(3600)),
        deadlines: vec![
            within(Origin::Queued, 1, None),
            within(Origin::Started, 1, Some(tasks[0].clone())),
            within(Origin::Started, 100, None),
        ],
        notify: vec![notify(Vec::new()), notify(tasks)],
    }
}

impl Moment {
    fn of(act: Act) -> Self {
        Self {
            expires: None,
            acts: vec![act],
        }
    }
}

impl<'a> Crowd<'a> {
    /// Lets everything of a moment happen at the same time.
    async fn live(&mut self, moment: &Moment) {
        if let Some(worker) = moment.expires.and_then(|pick| pick.of(QUEUES.len()))
            && self.expired.len() < MOST_LOST
        {
            expire(self.store, self.leases[worker]).await;
            self.expired.insert(self.leases[worker]);
        }
        let mut acts = Vec::new();
        for act in &moment.acts {
            acts.extend(self.begin(act));
        }
        for answer in join_all(acts).await {
            self.note(answer).await;
        }
    }

    /// What an act does, on its way; none when there is nothing to do it to.
    fn begin(&mut self, act: &Act) -> Option<LocalBoxFuture<'a, Answer>> {
        let (store, repeats) = (self.store, self.repeats);
        Some(match act {
            Act::Claim { worker, slots } => {
                let worker = worker.of(QUEUES.len())?;
                let (lease, slots) = (self.leases[worker], usize::from(*slots));
                async move {
                    let claim = async || claim(store, lease, QUEUES[worker], slots).await;
                    Answer::Claimed(worker, again(repeats, claim).await.unwrap())
                }
                .boxed_local()
            }
            Act::Settle {
                worker,
                part,
                slots,
                gives_back,
            } => {
                let worker = worker.of(QUEUES.len())?;
                let (lease, slots) = (self.leases[worker], usize::from(*slots));
                let batch: Vec<Ended> = take_part(&mut self.hands[worker], *part)
                    .into_iter()
                    .map(|one| {
                        let ending = if *gives_back {
                            Ending::GivenBack
                        } else {
                            self.plan.ending(&one)
                        };
                        ended(one, ending)
                    })
                    .collect();
                async move {
                    let queues = QUEUES[worker];
                    let settle =
                        async || settle_and_claim(store, &batch, lease, queues, slots).await;
                    let (settled, claimed) = again(repeats, settle).await.unwrap();
                    Answer::Settled(worker, batch, settled, claimed)
                }
                .boxed_local()
            }
            Act::Renew { worker } => {
                let worker = worker.of(QUEUES.len())?;
                let lease = self.leases[worker];
                async move {
                    let renew = async || store.renew(lease, LEASE, &[]).await;
                    match again(repeats, renew).await.unwrap() {
                        Some(_) => Answer::Nothing,
                        None => Answer::Ended(worker),
                    }
                }
                .boxed_local()
            }
            Act::Reap => async move {
                // What its worker settles at the same time is refused to the reaper.
                again(repeats, async || store.reap().await).await.unwrap();
                Answer::Nothing
            }
            .boxed_local(),
            Act::Wake => async move {
                let shift = TimeDelta::days(1);
                let wake = async || store.wake(shift).await;
                again(repeats, wake).await.unwrap();
                again(repeats, async || store.strike(shift).await)
                    .await
                    .unwrap();
                again(repeats, async || store.gather(shift).await)
                    .await
                    .unwrap();
                Answer::Nothing
            }
            .boxed_local(),
            Act::Trigger => {
                if self.asked == MOST_RUNS {
                    return None;
                }
                let run = self.new_run();
                async move {
                    let trigger = async || store.trigger(run.clone()).await;
                    Answer::Made(again(repeats, trigger).await.unwrap())
                }
                .boxed_local()
            }
            Act::Cancel(run) => {
                let run_id = self.runs[run.of(self.runs.len())?];
                self.cancelled.insert(run_id);
                async move {
                    let cancel = async || store.cancel_run(run_id, "ada").await;
                    let answer = again(repeats, cancel).await;
                    let is_known = matches!(answer, Ok(_) | Err(Error::RunIsFinal { .. }));
                    assert!(is_known, "{answer:?}");
                    Answer::Nothing
                }
                .boxed_local()
            }
            Act::Clear {
                run,
                selection,
                scope,
            } => {
                let run_id = self.runs[run.of(self.runs.len())?];
                let request = request(run_id, self.choose(*selection), *scope);
                async move {
                    let clear = async || store.clear(request.clone()).await;
                    let answer = again(repeats, clear).await;
                    let is_known = matches!(
                        answer,
                        Ok(_) | Err(Error::TaskIsActive { .. } | Error::NothingToClear { .. })
                    );
                    assert!(is_known, "{answer:?}");
                    Answer::Nothing
                }
                .boxed_local()
            }
            Act::Mark { run, marks } => {
                let run_id = self.runs[run.of(self.runs.len())?];
                self.cancelled.insert(run_id);
                let selection = match marks.tasks {
                    Some((one, other)) => {
                        let tasks = &self.dag.tasks;
                        let names = [one, other]
                            .map(|pick| tasks[pick.of(tasks.len()).unwrap()].id.clone());
                        MarkSelection::Tasks(names.into())
                    }
                    None => MarkSelection::WholeRun,
                };
                let request = MarkRequest {
                    run_id,
                    selection,
                    marked: marks.marked,
                    actor: "ada".to_owned(),
                };
                async move {
                    let mark = async || store.mark(request.clone()).await;
                    let answer = again(repeats, mark).await;
                    let is_known = matches!(
                        answer,
                        Ok(_) | Err(Error::NothingToMark { .. } | Error::RunIsQueued { .. })
                    );
                    assert!(is_known, "{answer:?}");
                    Answer::Nothing
                }
                .boxed_local()
            }
            Act::TimeOut => {
                self.has_timed_out = true;
                async move {
                    let time_out = async || store.time_out(TimeDelta::days(1)).await;
                    again(repeats, time_out).await.unwrap();
                    Answer::Nothing
                }
                .boxed_local()
            }
            Act::SetPaused(is_paused) => {
                let paused = if *is_paused {
                    Paused::Paused
                } else {
                    Paused::Active
                };
                let dag_id = self.dag.id.clone();
                async move {
                    let pause = async || store.set_paused(&dag_id, paused, "ada").await;
                    again(repeats, pause).await.unwrap();
                    Answer::Nothing
                }
                .boxed_local()
            }
            Act::Rebuild => async move {
                again(repeats, async || rebuild(store).await).await.unwrap();
                Answer::Nothing
            }
            .boxed_local(),
        })
    }

    async fn note(&mut self, answer: Answer) {
        match answer {
            Answer::Nothing => {}
            Answer::Claimed(worker, claimed) => self.hold(worker, claimed),
            Answer::Settled(worker, batch, settled, claimed) => {
                for ended in &batch {
                    let execution = &ended.execution;
                    let is_refused = settled.refused.contains(&execution.instance_id);
                    assert!(
                        !is_refused
                            || self.expired.contains(&execution.worker_id)
                            || self.has_timed_out
                            || self.cancelled.contains(&execution.run_id),
                        "nobody took it away: {execution:?}"
                    );
                    if ended.ending == Ending::GivenBack && !is_refused {
                        let fence = (execution.instance_id, execution.epoch);
                        self.given_back.insert(fence);
                    }
                }
                self.hold(worker, claimed);
            }
            Answer::Ended(worker) => {
                self.leases[worker] = register(self.store, QUEUES[worker]).await;
            }
            Answer::Made(run_id) => self.runs.push(run_id),
        }
    }

    fn hold(&mut self, worker: usize, claimed: Vec<Claimed>) {
        for one in claimed {
            let fence = (one.execution.instance_id, one.execution.epoch);
            assert!(self.seen.insert(fence), "no two executions under one epoch");
            self.hands[worker].push(one);
        }
    }

    /// Everybody renews, claims and settles, each at the same time as the others, until every run is final.
    async fn drain(&mut self) {
        for _ in 0..ROUNDS {
            let mut is_over = self.hands.iter().all(Vec::is_empty);
            for run_id in &self.runs {
                is_over &= run_state(self.store, *run_id).await.is_final();
            }
            if is_over {
                return;
            }
            let workers = || (0_u8..).map(Pick).take(QUEUES.len());
            let renew = workers().map(|worker| Act::Renew { worker });
            let claim = workers().map(|worker| Act::Claim { worker, slots: 4 });
            let settle = workers().map(|worker| Act::Settle {
                worker,
                part: u8::MAX,
                slots: 0,
                gives_back: false,
            });
            let rounds: [Vec<Act>; 3] = [
                renew.chain([Act::Reap, Act::Wake]).collect(),
                claim.collect(),
                settle.collect(),
            ];
            for acts in rounds {
                let expires = None;
                self.live(&Moment { expires, acts }).await;
                recount(self.store).await;
            }
        }
        panic!("the runs do not end");
    }

    /// Every deadline is settled, and every run's end was told at least once.
    async fn check_told(&self) {
        let told: BTreeSet<Option<i64>> = sqlx::query_scalar(
            "select run_id from notification where event in ('failure', 'success') and not detail ? 'task'",
        )
        .fetch_all(&self.store.people)
        .await
        .unwrap()
        .into_iter()
        .collect();
        for run_id in &self.runs {
            let deadlines = self.store.run_deadlines(*run_id).await.unwrap();
            // One that was cancelled before it started has none that count from there.
            assert!(matches!(deadlines.len(), 1 | 3), "{deadlines:?}");
            assert!(
                deadlines.iter().all(|row| row.state != "pending"),
                "{deadlines:?}"
            );
            assert!(told.contains(&Some(run_id.0)), "run {run_id}: {told:?}");
        }
        let health = self.store.health(&self.dag.id).await.unwrap().unwrap();
        let failing = run_state(self.store, *self.runs.last().unwrap()).await == RunState::Failed;
        assert_eq!(health.failing, failing, "every run of a story ends alike");
    }

    async fn check_ends(&self) {
        let (expected, expected_run) = ends(&self.dag, |ordinal| self.plan.outcome(ordinal));
        let names = self.dag.tasks.iter().map(|task| task.id.to_string());
        let expected: BTreeMap<String, TaskState> = names.zip(expected).collect();
        for run_id in &self.runs {
            assert_eq!(states(self.store, *run_id).await, expected);
            assert_eq!(run_state(self.store, *run_id).await, expected_run);
        }
        let recorded: BTreeSet<(InstanceId, i32)> = history(self.store, &self.dag.id)
            .await
            .into_iter()
            .map(|row| (row.instance_id, row.epoch))
            .collect();
        assert_eq!(
            recorded,
            &self.seen - &self.given_back,
            "every execution is recorded, but what was given back"
        );
    }

    fn new_run(&mut self) -> NewRun {
        let first: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
        let days = i64::try_from(self.asked).unwrap();
        self.asked += 1;
        NewRun {
            dag_id: self.dag.id.clone(),
            kind: RunKind::Manual,
            logical_date: Some(first + TimeDelta::days(days)),
            params: Params::new(),
            triggered_by: "a test".to_owned(),
        }
    }

    fn choose(&self, selection: Selection) -> ClearSelection {
        match selection {
            Selection::WholeRun => ClearSelection::WholeRun,
            Selection::Failed => ClearSelection::Failed,
            Selection::Tasks(one, other) => {
                let tasks = &self.dag.tasks;
                let names =
                    [one, other].map(|pick| tasks[pick.of(tasks.len()).unwrap()].id.clone());
                ClearSelection::Tasks(names.into())
            }
        }
    }
}

fn request(run_id: RunId, selection: ClearSelection, scope: ClearScope) -> ClearRequest {
    ClearRequest {
        run_id,
        selection,
        scope,
        version: ClearVersion::Same,
        actor: "ada".to_owned(),
    }
}

/// Begins again what Postgres ended for the sake of others, and counts it.
async fn again<T>(
    repeats: &AtomicUsize,
    attempt: impl AsyncFn() -> Result<T, Error>,
) -> Result<T, Error> {
    for _ in 0..ATTEMPTS {
        match attempt().await {
            Err(Error::Database(sqlx::Error::Database(refusal)))
                if refusal.code().is_some_and(|code| code.starts_with("40")) =>
            {
                repeats.fetch_add(1, Ordering::Relaxed);
            }
            answer => return answer,
        }
    }
    panic!("it was ended for the sake of others {ATTEMPTS} times");
}
