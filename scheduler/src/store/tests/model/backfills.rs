//! Plays a story of a DAG that is scheduled, backfilled, cleared, cancelled and paused by several at the same time, from two
//! processes' connections: each logical date keeps one run, and every backfill ends.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
};

use chrono::{DateTime, TimeDelta, Utc};
use futures::{
    FutureExt,
    future::{LocalBoxFuture, join_all},
};
use proptest::prelude::*;

use super::{
    super::calls::{claim, register, settle_and_claim},
    super::{ClearRequest, ClearScope, ClearSelection, Ended, Error, Paused, ended},
    recount::recount,
    story::{Chance, Pick, Plan, QUEUES, Story, pick, plan, take_part},
};
use crate::{
    model::{
        BackfillId, Catchup, Dag, Params, RunId, Schedule, WorkerId,
        backfill::{BackfillState, Direction, OnFailure, Reprocess},
    },
    store::{BackfillFilter, Claimed, NewBackfill, OpenRuns, Steer, Store},
    testing::publish,
};

/// So many logical dates there are.
const DATES: i64 = 9;
/// So many backfills of one story at most.
const MOST_BACKFILLS: usize = 4;
/// So often everybody may claim and settle before a story must be over.
const ROUNDS: usize = 400;

/// What happens at the same time.
type Moment = Vec<Act>;

#[derive(Debug, Clone)]
pub(super) enum Act {
    Claim {
        worker: Pick,
    },
    /// A worker settles a part of what it holds (a bit for each).
    Settle {
        worker: Pick,
        part: u8,
        fails: bool,
    },
    /// Two schedulers look at the same time, when so many dates were over.
    Schedule(u8),
    Create(Asked),
    Steer(Pick, bool),
    CancelBackfill(Pick, bool),
    CancelRun(Pick),
    Clear(Pick),
    SetPaused(bool),
    GoOn,
    /// Another version of the DAG comes, with a task more or less.
    Edit(bool),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    from: u8,
    to: u8,
    reprocess: Reprocess,
    is_backwards: bool,
    stops: bool,
    max_active_runs: u32,
}

enum Answer {
    Nothing,
    Claimed(usize, Vec<Claimed>),
    Made(Option<BackfillId>),
}

pub(super) fn story() -> impl Strategy<Value = Story<Moment>> {
    let moments = prop::collection::vec(prop::collection::vec(act(), 1..=5), 8..=25);
    (plan(), moments).prop_map(|(plan, steps)| Story { plan, steps })
}

fn act() -> impl Strategy<Value = Act> {
    let date = || 0..u8::try_from(DATES).unwrap();
    let asked = (
        (date(), date()),
        prop::sample::select(Reprocess::ALL.to_vec()),
        any::<bool>(),
        prop::bool::weighted(0.3),
        1..=3_u32,
    )
        .prop_map(
            |((one, other), reprocess, is_backwards, stops, max_active_runs)| Asked {
                from: one.min(other),
                to: one.max(other),
                reprocess,
                is_backwards,
                stops,
                max_active_runs,
            },
        );
    prop_oneof![
        6 => pick().prop_map(|worker| Act::Claim { worker }),
        8 => (pick(), any::<u8>(), prop::bool::weighted(0.3)).prop_map(
            |(worker, part, fails)| Act::Settle { worker, part, fails }
        ),
        3 => date().prop_map(Act::Schedule),
        4 => asked.prop_map(Act::Create),
        2 => (pick(), any::<bool>()).prop_map(|(one, resume)| Act::Steer(one, resume)),
        1 => (pick(), any::<bool>()).prop_map(|(one, runs_too)| Act::CancelBackfill(one, runs_too)),
        2 => pick().prop_map(Act::CancelRun),
        4 => pick().prop_map(Act::Clear),
        1 => any::<bool>().prop_map(Act::SetPaused),
        2 => Just(Act::GoOn),
        1 => any::<bool>().prop_map(Act::Edit),
    ]
}

struct Crowd<'a> {
    stores: &'a [Store; 2],
    dag: Dag,
    start: DateTime<Utc>,
    leases: Vec<WorkerId>,
    hands: Vec<Vec<Claimed>>,
    runs: Vec<RunId>,
    backfills: Vec<BackfillId>,
    asked: usize,
    calls: usize,
    repeats: &'a AtomicUsize,
}

/// Plays a story until every backfill and every run is final.
pub(super) async fn play(store: &Store, story: &Story<Moment>, id: &str) {
    let stores = [store.clone(), Store::from_pool(&store.people)];
    store
        .begin_watch(std::time::Duration::from_secs(3600), TimeDelta::zero())
        .await
        .unwrap();
    let midnight = Utc::now()
        .date_naive()
        .and_hms_opt(0, 0, 0)
        .unwrap()
        .and_utc();
    let start = midnight - TimeDelta::days(DATES);
    let dag = scheduled(&story.plan, id, start);
    publish(store, &dag).await;
    let repeats = AtomicUsize::new(0);
    let mut crowd = Crowd {
        stores: &stores,
        dag,
        start,
        leases: Vec::new(),
        hands: QUEUES.iter().map(|_| Vec::new()).collect(),
        runs: Vec::new(),
        backfills: Vec::new(),
        asked: 0,
        calls: 0,
        repeats: &repeats,
    };
    for queues in QUEUES {
        let lease = register(store, queues).await;
        crowd.leases.push(lease);
    }
    for moment in &story.steps {
        crowd.live(moment).await;
        recount(store).await;
    }
    crowd.live(&vec![Act::SetPaused(false)]).await;
    crowd.drain().await;
    crowd.check_ends().await;
    assert_eq!(
        repeats.load(Ordering::Relaxed),
        0,
        "locks are taken in one order, so nobody waits in a circle"
    );
    for lease in crowd.leases {
        store.resign(lease).await.unwrap();
    }
}

/// The DAG of a plan, once a day since `start`, all of the past made up for.
fn scheduled(plan: &Plan, id: &str, start: DateTime<Utc>) -> Dag {
    let mut dag = plan.dag(id);
    dag.schedule = Some(Schedule::parse_cron("0 0 * * *", chrono_tz::Tz::UTC).unwrap());
    dag.start = Some(start);
    dag.catchup = Catchup::All;
    dag
}

impl<'a> Crowd<'a> {
    /// Lets everything of a moment happen at the same time.
    async fn live(&mut self, moment: &Moment) {
        let mut acts = Vec::new();
        for act in moment {
            self.begin(act, &mut acts);
        }
        for answer in join_all(acts).await {
            match answer {
                Answer::Nothing | Answer::Made(None) => {}
                Answer::Claimed(worker, claimed) => self.hands[worker].extend(claimed),
                Answer::Made(Some(backfill_id)) => self.backfills.push(backfill_id),
            }
        }
        self.runs = sqlx::query_scalar("select run_id from run where dag_id = $1 order by run_id")
            .bind(self.dag.id.as_str())
            .fetch_all(&self.stores[0].people)
            .await
            .unwrap()
            .into_iter()
            .map(RunId)
            .collect();
    }

    /// Puts what an act does on its way.
    fn begin(&mut self, act: &Act, acts: &mut Vec<LocalBoxFuture<'a, Answer>>) {
        self.calls += 1;
        let (store, repeats) = (&self.stores[self.calls % 2], self.repeats);
        let dag_id = self.dag.id.clone();
        match act {
            Act::Claim { worker } => {
                let worker = worker.of(QUEUES.len()).unwrap();
                let lease = self.leases[worker];
                acts.push(
                    async move {
                        let claim = async || claim(store, lease, QUEUES[worker], 3).await;
                        Answer::Claimed(worker, again(repeats, claim).await.unwrap())
                    }
                    .boxed_local(),
                );
            }
            Act::Settle {
                worker,
                part,
                fails,
            } => {
                let worker = worker.of(QUEUES.len()).unwrap();
                let lease = self.leases[worker];
                let chance = if *fails {
                    Chance::Fail(pinwheel_tasks::FailureClass::Permanent)
                } else {
                    Chance::Success
                };
                let batch: Vec<Ended> = take_part(&mut self.hands[worker], *part)
                    .into_iter()
                    .map(|one| ended(one, chance.ending()))
                    .collect();
                acts.push(
                    async move {
                        let settle = async || {
                            settle_and_claim(store, &batch, lease, QUEUES[worker], 2).await
                        };
                        let (_, claimed) = again(repeats, settle).await.unwrap();
                        Answer::Claimed(worker, claimed)
                    }
                    .boxed_local(),
                );
            }
            Act::Schedule(dates) => {
                let over = self.start + TimeDelta::days(i64::from(*dates) + 1);
                let shift = TimeDelta::seconds((over - Utc::now()).num_seconds() + 60);
                for store in self.stores {
                    acts.push(
                        async move {
                            let schedule = async || store.schedule_due(shift).await;
                            again(repeats, schedule).await.unwrap();
                            Answer::Nothing
                        }
                        .boxed_local(),
                    );
                }
            }
            Act::Create(asked) => {
                if self.asked == MOST_BACKFILLS {
                    return;
                }
                self.asked += 1;
                let new = self.new_backfill(*asked);
                acts.push(
                    async move {
                        let create = async || store.create_backfill(&new).await;
                        let answer = again(repeats, create).await;
                        match answer {
                            Ok(backfill_id) => Answer::Made(Some(backfill_id)),
                            Err(Error::BackfillIsOpen { .. } | Error::NothingToBackfill { .. }) => {
                                Answer::Made(None)
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                    .boxed_local(),
                );
            }
            Act::Steer(one, resume) => {
                let Some(one) = one.of(self.backfills.len()) else {
                    return;
                };
                let backfill_id = self.backfills[one];
                let steer = if *resume { Steer::Resume } else { Steer::Pause };
                acts.push(
                    async move {
                        let steer = async || store.steer_backfill(backfill_id, steer, "ada").await;
                        let answer = again(repeats, steer).await;
                        let is_known = matches!(answer, Ok(_) | Err(Error::BackfillIsFinal { .. }));
                        assert!(is_known, "{answer:?}");
                        Answer::Nothing
                    }
                    .boxed_local(),
                );
            }
            Act::CancelBackfill(one, runs_too) => {
                let Some(one) = one.of(self.backfills.len()) else {
                    return;
                };
                let backfill_id = self.backfills[one];
                let open_runs = if *runs_too {
                    OpenRuns::Cancel
                } else {
                    OpenRuns::Keep
                };
                acts.push(
                    async move {
                        let cancel =
                            async || store.cancel_backfill(backfill_id, open_runs, "ada").await;
                        let answer = again(repeats, cancel).await;
                        let is_known = matches!(answer, Ok(_) | Err(Error::BackfillIsFinal { .. }));
                        assert!(is_known, "{answer:?}");
                        Answer::Nothing
                    }
                    .boxed_local(),
                );
            }
            Act::CancelRun(run) => {
                let Some(run) = run.of(self.runs.len()) else {
                    return;
                };
                let run_id = self.runs[run];
                acts.push(
                    async move {
                        let cancel = async || store.cancel_run(run_id, "ada").await;
                        let answer = again(repeats, cancel).await;
                        let is_known = matches!(answer, Ok(_) | Err(Error::RunIsFinal { .. }));
                        assert!(is_known, "{answer:?}");
                        Answer::Nothing
                    }
                    .boxed_local(),
                );
            }
            Act::Clear(run) => {
                let Some(run) = run.of(self.runs.len()) else {
                    return;
                };
                let request = ClearRequest {
                    run_id: self.runs[run],
                    selection: ClearSelection::WholeRun,
                    scope: ClearScope::Only,
                    version: crate::store::ClearVersion::Same,
                    actor: "ada".to_owned(),
                };
                acts.push(
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
                    .boxed_local(),
                );
            }
            Act::SetPaused(is_paused) => {
                let paused = if *is_paused {
                    Paused::Paused
                } else {
                    Paused::Active
                };
                acts.push(
                    async move {
                        let pause = async || store.set_paused(&dag_id, paused, "ada").await;
                        again(repeats, pause).await.unwrap();
                        Answer::Nothing
                    }
                    .boxed_local(),
                );
            }
            Act::GoOn => acts.push(
                async move {
                    let go_on = async || store.go_on_with_backfills().await;
                    again(repeats, go_on).await.unwrap();
                    Answer::Nothing
                }
                .boxed_local(),
            ),
            Act::Edit(is_longer) => {
                let mut edited = self.dag.clone();
                let last = edited.tasks.len() - 1;
                if *is_longer {
                    let mut more = edited.tasks[last].clone();
                    more.id = crate::model::TaskId::new("more").unwrap();
                    more.upstream = Vec::new();
                    more.downstream = Vec::new();
                    edited.tasks.push(more);
                }
                acts.push(
                    async move {
                        let source = serde_json::to_string(&edited).unwrap();
                        let file = format!("{}.toml", edited.id);
                        let publish = async || store.publish(&file, &source, &edited).await;
                        again(repeats, publish).await.unwrap();
                        Answer::Nothing
                    }
                    .boxed_local(),
                );
            }
        }
    }

    fn new_backfill(&self, asked: Asked) -> NewBackfill {
        NewBackfill {
            dag_id: self.dag.id.clone(),
            from: self.start + TimeDelta::days(i64::from(asked.from)),
            to: self.start + TimeDelta::days(i64::from(asked.to)),
            reprocess: asked.reprocess,
            direction: if asked.is_backwards {
                Direction::Backwards
            } else {
                Direction::Forwards
            },
            on_failure: if asked.stops {
                OnFailure::Stop
            } else {
                OnFailure::Continue
            },
            max_active_runs: Some(asked.max_active_runs),
            params: Params::new(),
            actor: "ada".to_owned(),
        }
    }

    /// Everybody claims, settles and lets backfills go on, until all is final.
    async fn drain(&mut self) {
        for _ in 0..ROUNDS {
            let open: i64 = sqlx::query_scalar(
                "select (select count(*) from run where dag_id = $1 and finished_at is null)
                    + (select count(*) from backfill where dag_id = $1 and finished_at is null)",
            )
            .bind(self.dag.id.as_str())
            .fetch_one(&self.stores[0].people)
            .await
            .unwrap();
            if open == 0 && self.hands.iter().all(Vec::is_empty) {
                return;
            }
            let workers = || (0_u8..).map(Pick).take(QUEUES.len());
            let backfills = (0_u8..).map(Pick).take(self.backfills.len());
            let rounds: [Moment; 3] = [
                backfills
                    .map(|one| Act::Steer(one, true))
                    .chain([Act::GoOn])
                    .collect(),
                workers().map(|worker| Act::Claim { worker }).collect(),
                workers()
                    .map(|worker| Act::Settle {
                        worker,
                        part: u8::MAX,
                        fails: false,
                    })
                    .collect(),
            ];
            for moment in rounds {
                self.live(&moment).await;
                recount(&self.stores[0]).await;
            }
        }
        panic!("the runs do not end");
    }

    /// Every date that a backfill went through has its one run, which is final.
    async fn check_ends(&self) {
        let store = &self.stores[0];
        let runs: Vec<(DateTime<Utc>, i64)> = sqlx::query_as(
            "select logical_date, run_id from run where dag_id = $1 order by logical_date",
        )
        .bind(self.dag.id.as_str())
        .fetch_all(&store.people)
        .await
        .unwrap();
        let dates: BTreeSet<_> = runs.iter().map(|(date, _)| *date).collect();
        assert_eq!(dates.len(), runs.len(), "each logical date has one run");
        let filter = BackfillFilter {
            dag_id: Some(self.dag.id.clone()),
            before: None,
            limit: 500,
        };
        let backfills = store.backfills(&filter).await.unwrap();
        assert_eq!(backfills.len(), self.backfills.len());
        for backfill in backfills {
            let is_cancelled = backfill.state == BackfillState::Cancelled;
            assert!(backfill.state.is_final(), "{backfill:?}");
            assert_eq!(backfill.progress.waiting, 0);
            let all = store
                .backfill_dates(backfill.backfill_id, 0, 500)
                .await
                .unwrap();
            let days = (backfill.to - backfill.from).num_days() + 1;
            assert_eq!(i64::try_from(all.len()).unwrap(), days);
            assert!(
                is_cancelled || all.iter().all(|date| dates.contains(&date.logical_date)),
                "every date of {backfill:?} has a run"
            );
        }
    }
}

/// Begins again what Postgres ended for the sake of others, and counts it.
async fn again<T>(
    repeats: &AtomicUsize,
    attempt: impl AsyncFn() -> Result<T, Error>,
) -> Result<T, Error> {
    for _ in 0..10 {
        match attempt().await {
            Err(Error::Database(sqlx::Error::Database(refusal)))
                if refusal.code().is_some_and(|code| code.starts_with("40")) =>
            {
                repeats.fetch_add(1, Ordering::Relaxed);
            }
            answer => return answer,
        }
    }
    panic!("it was ended for the sake of others ten times");
}
