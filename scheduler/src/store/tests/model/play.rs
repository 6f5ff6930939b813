//! Plays a story step by step, with the model beside the store: after every step both hold the same.

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;

use super::{
    super::calls::{LEASE, claim, rebuild, register, settle_and_claim},
    super::{ClearRequest, ClearScope, ClearSelection, Ended, Error, Paused, ended, expire, sql},
    recount::{compare, compare_history, instances, recount},
    story::{
        Chance, Due, Marks, NARROW, NARROW_SLOTS, Pick, Plan, QUEUES, Selection, Step, Story,
        take_part,
    },
    world::{Lease, World, ends},
};
use crate::{
    model::{InstanceId, RunId, RunState, TaskId, TaskState},
    store::{Claimed, ClearVersion, Effects, MarkRequest, MarkSelection, Settled, Store},
    testing::{publish, trigger},
};

/// So many runs of one story at most.
const MOST_RUNS: usize = 3;
/// So often everybody may claim and settle before a story must be over.
const ROUNDS: usize = 60;

struct Player<'a> {
    store: &'a Store,
    plan: &'a Plan,
    world: World,
    /// What each worker believes to hold; some of it may be somebody else's by now.
    hands: Vec<Vec<Claimed>>,
    seen: BTreeSet<(InstanceId, i32)>,
}

/// Plays a story from its first run until every run is final, then runs all of them again from the start.
pub(super) async fn play(store: &Store, story: &Story<Step>, id: &str) {
    let dag = story.plan.dag(id);
    publish(store, &dag).await;
    let mut player = Player {
        store,
        plan: &story.plan,
        world: World::new(dag),
        hands: QUEUES.iter().map(|_| Vec::new()).collect(),
        seen: BTreeSet::new(),
    };
    for worker in 0..QUEUES.len() {
        player.register(worker).await;
    }
    player.trigger().await;
    for step in &story.steps {
        player.step(step).await;
        player.check().await;
    }
    player.set_paused(Paused::Active).await;
    player.drain().await;
    compare_history(store, &player.world).await;

    for run in 0..player.world.runs.len() {
        player
            .clear(run, Selection::WholeRun, ClearScope::Only)
            .await;
    }
    player.drain().await;
    compare_history(store, &player.world).await;
    let (states, run_state) = ends(&player.world.dag, |ordinal| story.plan.outcome(ordinal));
    for run in &player.world.runs {
        let seen: Vec<TaskState> = run.tasks.iter().map(|task| task.state).collect();
        assert_eq!((seen, run.state), (states.clone(), run_state));
    }
    for lease in &player.world.leases {
        store.resign(lease.worker_id).await.unwrap();
    }
}

impl Player<'_> {
    async fn check(&self) {
        compare(self.store, &self.world).await;
        recount(self.store).await;
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Claim { worker, slots } => {
                let worker = self.pick_worker(*worker);
                self.claim(worker, usize::from(*slots)).await;
            }
            Step::Settle {
                worker,
                part,
                endings,
                slots,
            } => {
                let worker = self.pick_worker(*worker);
                let batch = self.take(worker, *part, endings);
                self.settle(worker, &batch, usize::from(*slots)).await;
            }
            Step::SettleTwice {
                worker,
                part,
                endings,
            } => {
                let worker = self.pick_worker(*worker);
                let batch = self.take(worker, *part, endings);
                self.settle(worker, &batch, 0).await;
                self.check().await;
                self.settle(worker, &batch, 0).await;
            }
            Step::Expire { worker } => {
                let worker = self.pick_worker(*worker);
                let lease = self.lease_mut(worker);
                lease.is_over = true;
                let worker_id = lease.worker_id;
                expire(self.store, worker_id).await;
            }
            Step::Reap => self.reap().await,
            Step::Renew { worker } => {
                let worker = self.pick_worker(*worker);
                self.renew(worker).await;
            }
            Step::Wake(due) => self.wake(*due).await,
            Step::Trigger => {
                if self.world.runs.len() < MOST_RUNS {
                    self.trigger().await;
                }
            }
            Step::Cancel(run) => self.cancel(*run).await,
            Step::Clear {
                run,
                selection,
                scope,
            } => {
                let run = run.of(self.world.runs.len()).unwrap();
                self.clear(run, *selection, *scope).await;
            }
            Step::Mark { run, marks } => {
                let run = run.of(self.world.runs.len()).unwrap();
                self.mark(run, *marks).await;
            }
            Step::TimeOut => {
                self.store.time_out(ahead(Due::Later)).await.unwrap();
                self.world.time_out();
            }
            Step::Pause => self.set_paused(Paused::Paused).await,
            Step::Unpause => self.set_paused(Paused::Active).await,
            Step::Rebuild { lost } => {
                if *lost {
                    sql(
                        self.store,
                        "delete from ready; delete from sleeper;".to_owned(),
                    )
                    .await;
                    for run in &mut self.world.runs {
                        for task in &mut run.tasks {
                            task.sleep = task.sleep.map(|(reason, _)| (reason, Due::Now));
                        }
                    }
                }
                rebuild(self.store).await.unwrap();
            }
        }
    }

    fn pick_worker(&self, worker: Pick) -> usize {
        worker.of(QUEUES.len()).unwrap()
    }

    fn lease(&self, worker: usize) -> &Lease {
        let queues = QUEUES[worker];
        self.world
            .leases
            .iter()
            .rev()
            .find(|lease| lease.queues == queues)
            .unwrap()
    }

    fn lease_mut(&mut self, worker: usize) -> &mut Lease {
        let worker_id = self.lease(worker).worker_id;
        self.world
            .leases
            .iter_mut()
            .find(|lease| lease.worker_id == worker_id)
            .unwrap()
    }

    async fn register(&mut self, worker: usize) {
        let queues = QUEUES[worker];
        let worker_id = register(self.store, queues).await;
        self.world.leases.push(Lease {
            worker_id,
            queues,
            is_over: false,
            is_ended: false,
        });
    }

    async fn trigger(&mut self) {
        let run_id = trigger(self.store, &self.world.dag).await;
        let made = instances(self.store, run_id).await;
        self.world.trigger(run_id, made);
    }

    async fn claim(&mut self, worker: usize, slots: usize) {
        let worker_id = self.lease(worker).worker_id;
        let claimed = claim(self.store, worker_id, QUEUES[worker], slots)
            .await
            .unwrap();
        self.hold(worker, slots, claimed, &BTreeSet::new());
    }

    /// Checks what a claim gave and notes it. What was queued just now may stand behind what the same transaction handed
    /// to the worker before.
    fn hold(
        &mut self,
        worker: usize,
        slots: usize,
        claimed: Vec<Claimed>,
        just_queued: &BTreeSet<InstanceId>,
    ) {
        let lease = self.lease(worker);
        assert!(!lease.is_ended || claimed.is_empty(), "its lease is over");
        assert!(claimed.len() <= slots, "it wanted {slots}");
        let taken: BTreeSet<InstanceId> = claimed
            .iter()
            .map(|one| one.execution.instance_id)
            .collect();
        let room = NARROW_SLOTS - self.world.narrow_in_use();
        for (pool, queue) in lanes(lease.queues) {
            let best = self.claimable(pool, queue);
            let stands_behind =
                |instance| just_queued.contains(instance) && !taken.contains(instance);
            assert!(
                best.iter()
                    .filter(|(instance, _)| !stands_behind(instance))
                    .is_sorted_by_key(|(instance, _)| !taken.contains(instance)),
                "the best of {pool} in {queue} come first: of {best:?} {taken:?} were taken"
            );
            let fits = best
                .first()
                .is_some_and(|(_, takes)| takes.is_none_or(|takes| takes <= room));
            assert!(
                !fits || !claimed.is_empty() || slots == 0 || lease.is_ended,
                "there is work in {pool} for {queue}, and it got none"
            );
        }
        for one in claimed {
            let execution = &one.execution;
            assert_eq!(execution.worker_id, self.lease(worker).worker_id);
            assert!(
                self.seen.insert((execution.instance_id, execution.epoch)),
                "no two executions under one epoch"
            );
            assert_eq!(one.resume.is_some(), execution.continues);
            self.world.claim(execution);
            self.hands[worker].push(one);
        }
        assert!(self.world.narrow_in_use() <= NARROW_SLOTS);
        self.world.check_gates();
    }

    /// What may be claimed of a pool and a queue without passing a gate, best first, with the slots it takes.
    fn claimable(&self, pool: &str, queue: &str) -> Vec<(InstanceId, Option<i32>)> {
        let mut best: Vec<_> = self
            .world
            .places()
            .filter(|place| self.world.is_queued(*place) && !self.world.is_gated(place.1))
            .map(|place| (&self.world.dag.tasks[place.1], place))
            .filter(|(task, _)| task.pool == pool && task.queue == queue)
            .map(|(task, place)| (-task.priority, self.world.at(place).instance_id, place.1))
            .collect();
        best.sort_unstable();
        best.into_iter()
            .map(|(_, instance, ordinal)| (instance, self.world.slots_of(ordinal)))
            .collect()
    }

    /// Takes a part out of a worker's hands and lets it end.
    fn take(&mut self, worker: usize, part: u8, endings: &[Chance]) -> Vec<Ended> {
        take_part(&mut self.hands[worker], part)
            .into_iter()
            .zip(endings.iter().cycle())
            .map(|(one, chance)| ended(one, chance.ending()))
            .collect()
    }

    async fn settle(&mut self, worker: usize, batch: &[Ended], slots: usize) {
        let before = self.look();
        let worker_id = self.lease(worker).worker_id;
        let (settled, claimed) =
            settle_and_claim(self.store, batch, worker_id, QUEUES[worker], slots)
                .await
                .unwrap();
        let refused = self.world.settle(batch);
        assert_eq!(
            settled.refused.iter().copied().collect::<BTreeSet<_>>(),
            refused,
            "what is refused"
        );
        let after = self.look();
        check_closed(&settled, &before, &after);
        assert!(
            settled.effects.deadline || after.asleep.is_subset(&before.asleep),
            "a scheduler hears of what sleeps"
        );
        let taken: BTreeSet<InstanceId> = claimed
            .iter()
            .map(|one| one.execution.instance_id)
            .collect();
        let queued = after.queued.keys().copied();
        let just_queued = queued
            .filter(|instance| !before.queued.contains_key(instance))
            .collect();
        self.hold(worker, slots, claimed, &just_queued);
        check_rung(settled.effects, &before, &after, &taken);
    }

    async fn reap(&mut self) {
        let before = self.look();
        let settled = self.store.reap().await.unwrap();
        self.world.reap();
        let after = self.look();
        assert!(settled.refused.is_empty());
        check_closed(&settled, &before, &after);
        check_rung(settled.effects, &before, &after, &BTreeSet::new());
    }

    /// A worker whose lease has ended asks for a new one; what it held is not its own any more.
    async fn renew(&mut self, worker: usize) {
        let lease = self.lease(worker);
        let worker_id = lease.worker_id;
        let held: Vec<(InstanceId, i32)> = self.hands[worker]
            .iter()
            .map(|one| &one.execution)
            .filter(|execution| execution.worker_id == worker_id)
            .map(|execution| (execution.instance_id, execution.epoch))
            .collect();
        let Some(renewed) = self.store.renew(worker_id, LEASE, &held).await.unwrap() else {
            assert!(lease.is_ended, "a lease lives until somebody ends it");
            self.register(worker).await;
            return;
        };
        assert!(!lease.is_ended, "a lease that has ended is not renewed");
        let lost: BTreeSet<InstanceId> = self.hands[worker]
            .iter()
            .map(|one| &one.execution)
            .filter(|execution| execution.worker_id == worker_id && !self.world.owns(execution))
            .map(|execution| execution.instance_id)
            .collect();
        assert_eq!(
            renewed.lost.into_iter().collect::<BTreeSet<_>>(),
            lost,
            "a worker hears of what it has lost"
        );
        let waiting: Vec<bool> = self
            .world
            .places()
            .filter(|place| self.world.is_queued(*place))
            .filter(|place| {
                lease
                    .queues
                    .contains(&self.world.dag.tasks[place.1].queue.as_str())
            })
            .map(|place| self.world.is_gated(place.1))
            .collect();
        if waiting.contains(&false) {
            assert!(renewed.work_is_waiting, "something may be claimed");
        }
        if waiting.is_empty() {
            assert!(!renewed.work_is_waiting, "nothing may be claimed");
        }
        self.lease_mut(worker).is_over = false;
    }

    async fn wake(&mut self, clock: Due) {
        let effects = self.store.wake(ahead(clock)).await.unwrap();
        let woken = self.world.wake(clock);
        assert_eq!(effects.work, woken > 0);
    }

    async fn cancel(&mut self, run: Pick) {
        let run = run.of(self.world.runs.len()).unwrap();
        let answer = self
            .store
            .cancel_run(self.world.runs[run].run_id, "ada")
            .await;
        if self.world.cancel(run) {
            assert_eq!(answer.unwrap(), RunState::Cancelled);
        } else {
            assert!(
                matches!(answer, Err(Error::RunIsFinal { .. })),
                "{answer:?}"
            );
        }
    }

    async fn mark(&mut self, run: usize, marks: Marks) {
        let tasks = &self.world.dag.tasks;
        let chosen: Option<BTreeSet<usize>> = marks.tasks.map(|(one, other)| {
            BTreeSet::from([one, other].map(|pick| pick.of(tasks.len()).unwrap()))
        });
        let name = |ordinal: &usize| tasks[*ordinal].id.clone();
        let selection = match &chosen {
            Some(chosen) => MarkSelection::Tasks(chosen.iter().map(name).collect()),
            None => MarkSelection::WholeRun,
        };
        let request = MarkRequest {
            run_id: self.world.runs[run].run_id,
            selection,
            marked: marks.marked,
            actor: "ada".to_owned(),
        };
        let answer = self.store.mark(request).await;
        if self.world.runs[run].state == RunState::Queued {
            assert!(
                matches!(answer, Err(Error::RunIsQueued { .. })),
                "{answer:?}"
            );
            return;
        }
        let Some((changed, anew)) = self.world.mark(run, chosen.as_ref(), marks.marked) else {
            assert!(
                matches!(answer, Err(Error::NothingToMark { .. })),
                "{answer:?}"
            );
            return;
        };
        let tasks = &self.world.dag.tasks;
        let names = |ordinals: BTreeSet<usize>| -> Vec<TaskId> {
            ordinals
                .iter()
                .map(|ordinal| tasks[*ordinal].id.clone())
                .collect()
        };
        let answer = answer.unwrap();
        assert_eq!(
            (answer.tasks, answer.decided_anew),
            (names(changed), names(anew))
        );
        assert_eq!(answer.run_state, self.world.runs[run].state);
    }

    async fn clear(&mut self, run: usize, selection: Selection, scope: ClearScope) {
        let (selection, chosen) = choose(&self.world, run, selection);
        let asked = ClearRequest {
            run_id: self.world.runs[run].run_id,
            selection,
            scope,
            version: ClearVersion::Same,
            actor: "ada".to_owned(),
        };
        let preview = self.store.preview_clear(&asked).await;
        self.check().await;
        let answer = self.store.clear(asked).await;
        assert_eq!(
            preview.as_ref().ok().map(|cleared| &cleared.tasks),
            answer.as_ref().ok().map(|cleared| &cleared.tasks),
            "it is as it was foretold"
        );
        match self.world.to_clear(run, &chosen, scope) {
            None => assert!(
                matches!(answer, Err(Error::TaskIsActive { .. })),
                "{answer:?}"
            ),
            Some(cleared) if cleared.is_empty() => {
                assert!(
                    matches!(answer, Err(Error::NothingToClear { .. })),
                    "{answer:?}"
                );
            }
            Some(cleared) => {
                let names: Vec<TaskId> = cleared
                    .iter()
                    .map(|ordinal| self.world.dag.tasks[*ordinal].id.clone())
                    .collect();
                assert_eq!(answer.unwrap().tasks, names);
                self.world.clear(run, &cleared);
            }
        }
    }

    async fn set_paused(&mut self, paused: Paused) {
        self.store
            .set_paused(&self.world.dag.id, paused, "ada")
            .await
            .unwrap();
        self.world.set_paused(paused == Paused::Paused);
    }

    /// Everybody claims and settles, and nothing is left to chance, until every run is final and all hands are empty.
    async fn drain(&mut self) {
        for worker in 0..QUEUES.len() {
            self.renew(worker).await;
        }
        for _ in 0..ROUNDS {
            let is_over = self.world.runs.iter().all(|run| run.state.is_final());
            if is_over && self.hands.iter().all(Vec::is_empty) {
                return;
            }
            for worker in 0..QUEUES.len() {
                self.claim(worker, 4).await;
                let batch: Vec<Ended> = take_part(&mut self.hands[worker], u8::MAX)
                    .into_iter()
                    .map(|one| {
                        let ending = self.plan.ending(&one);
                        ended(one, ending)
                    })
                    .collect();
                self.settle(worker, &batch, 1).await;
            }
            self.wake(Due::Later).await;
            self.check().await;
        }
        panic!("the runs do not end");
    }

    fn look(&self) -> Look {
        let mut look = Look::default();
        for place in self.world.places() {
            let instance = self.world.at(place);
            if instance.state == TaskState::Queued {
                let queue = self.world.dag.tasks[place.1].queue.clone();
                look.queued.insert(instance.instance_id, queue);
            }
            if instance.state == TaskState::Sleeping {
                look.asleep.insert((instance.instance_id, instance.epoch));
            }
        }
        let ended = self.world.runs.iter().filter(|run| run.state.is_final());
        look.ended = ended.map(|run| (run.run_id, run.state)).collect();
        look
    }
}

/// What the model says at one moment.
#[derive(Default)]
struct Look {
    queued: BTreeMap<InstanceId, String>,
    asleep: BTreeSet<(InstanceId, i32)>,
    ended: BTreeSet<(RunId, RunState)>,
}

fn check_closed(settled: &Settled, before: &Look, after: &Look) {
    let closed: BTreeSet<(RunId, RunState)> = settled.closed.iter().copied().collect();
    assert_eq!(
        closed,
        &after.ended - &before.ended,
        "which runs were closed"
    );
}

/// Whoever makes more claimable than it takes says so: for every queue, or workers that serve another one sleep on.
fn check_rung(effects: Effects, before: &Look, after: &Look, taken: &BTreeSet<InstanceId>) {
    let mut left: BTreeMap<&str, i32> = BTreeMap::new();
    for (instance, queue) in &after.queued {
        let is_new = !before.queued.contains_key(instance);
        match (is_new, taken.contains(instance)) {
            (true, false) => *left.entry(queue).or_default() += 1,
            (false, true) => *left.entry(queue).or_default() -= 1,
            (true, true) | (false, false) => {}
        }
    }
    assert!(
        effects.work || left.values().all(|count| *count <= 0),
        "somebody is told of what was left for others: {left:?}"
    );
}

fn choose(world: &World, run: usize, selection: Selection) -> (ClearSelection, BTreeSet<usize>) {
    let tasks = &world.runs[run].tasks;
    match selection {
        Selection::WholeRun => (ClearSelection::WholeRun, (0..tasks.len()).collect()),
        Selection::Failed => {
            let failed = |state| {
                matches!(
                    state,
                    TaskState::Failed | TaskState::UpstreamFailed | TaskState::Cancelled
                )
            };
            let chosen = (0..tasks.len()).filter(|ordinal| failed(tasks[*ordinal].state));
            (ClearSelection::Failed, chosen.collect())
        }
        Selection::Tasks(one, other) => {
            let chosen = BTreeSet::from([one, other].map(|pick| pick.of(tasks.len()).unwrap()));
            let names = chosen
                .iter()
                .map(|ordinal| world.dag.tasks[*ordinal].id.clone());
            (ClearSelection::Tasks(names.collect()), chosen)
        }
    }
}

/// The pools and queues a worker claims from.
fn lanes(queues: &[&'static str]) -> impl Iterator<Item = (&'static str, &'static str)> {
    queues
        .iter()
        .flat_map(|queue| [("default", *queue), (NARROW, *queue)])
}

fn ahead(clock: Due) -> TimeDelta {
    match clock {
        Due::Now => TimeDelta::zero(),
        Due::Soon => TimeDelta::minutes(10),
        Due::Later => TimeDelta::days(1),
    }
}
