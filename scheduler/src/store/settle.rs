//! The finisher promotes: one transaction writes how executions ended, moves the counters downstream, decides trigger
//! rules, closes runs, starts the next ones and claims the next tasks.

mod expand;
mod next;
mod sights;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use pinwheel_tasks::Failure;
use serde_json::Value;
use sqlx::{Connection, PgConnection};

use super::{
    Appetite, Effects, Error, Execution, LogLine, Seen, Store, Taken, alerts,
    claim::{ClaimRow, task_at},
    time_limits,
};
use crate::model::{
    BackfillId, Dag, DagId, InstanceId, RunId, RunState, TaskState, VersionId, flow,
    trigger_rule::{Upstream, Verdict},
};
pub(super) use next::Next;
use next::what_next;
pub(super) use sights::sights_of;
use write::Written;

/// An execution that has ended, with what is left to store about it.
#[derive(Debug)]
pub struct Ended {
    /// Which.
    pub execution: Execution,
    /// How.
    pub ending: Ending,
    /// Its last log lines; they are there before anyone sees the final state.
    pub lines: Vec<LogLine>,
    /// What its templates became, if they were templates.
    pub rendered: Option<Value>,
    /// When it ran; `None` where only the database knows when it was claimed.
    pub span: Option<Span>,
}

impl Ended {
    /// What was claimed and never begun.
    pub(crate) fn untouched(execution: Execution) -> Self {
        Self {
            execution,
            ending: Ending::GivenBack,
            lines: Vec::new(),
            rendered: None,
            span: None,
        }
    }
}

/// When an execution ran, by its worker's monotonic clock. It reaches the database as durations before now, so the
/// clocks of machines never meet.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// Its kind was started.
    pub began: Instant,
    /// Its kind came back.
    pub ended: Instant,
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// It did its work.
    Success {
        /// What it answered.
        output: Value,
    },
    /// It decided that there is nothing to do.
    Skipped {
        /// Why.
        reason: String,
    },
    /// It waits by the clock, and the same try goes on later.
    Sleep {
        /// How long at least.
        wake_after: Duration,
        /// Why.
        reason: String,
        /// What it wants to find then.
        resume: Value,
    },
    /// It failed; the retry policy decides what follows.
    Failed(Failure),
    /// Its worker stops and gives it back; that costs no try.
    GivenBack,
    /// It stood for a mapped task, and these are the items; that costs no try.
    Expanded {
        /// In the order of the list; never empty.
        items: Vec<Item>,
    },
}

/// One item of a mapped task.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// What the list holds.
    pub item: Value,
    /// What people call it.
    pub name: Option<String>,
    /// Its concurrency key, rendered.
    pub key: Option<String>,
}

/// What settling a batch did.
#[derive(Debug, Default)]
pub struct Settled {
    /// Executions whose fence no longer held: nothing was recorded for them.
    pub refused: Vec<InstanceId>,
    /// Executions for which Postgres refuses to record anything at all, not even a failure.
    pub unsettled: Vec<InstanceId>,
    /// What the worker claimed for its free slots in the same transaction.
    pub taken: Taken,
    /// Whether it looked for what could be claimed, beyond what it was handed.
    pub looked: bool,
    /// Runs that became final.
    pub closed: Vec<(RunId, RunState)>,
    /// What is left for others.
    pub effects: Effects,
    made_ready: usize,
    touched_queued: bool,
}

impl Settled {
    /// Nothing can be recorded of this one.
    pub(crate) fn nothing_of(instance_id: InstanceId) -> Self {
        Self {
            unsettled: vec![instance_id],
            ..Self::default()
        }
    }

    pub(super) fn new(refused: BTreeSet<InstanceId>, step: Step) -> Self {
        Self {
            effects: step.effects(),
            refused: refused.into_iter().collect(),
            unsettled: Vec::new(),
            taken: Taken::default(),
            looked: true,
            closed: step.closed,
            made_ready: step.made_ready,
            touched_queued: step.touched_queued,
        }
    }
}

/// A task instance that has just become final.
#[derive(Clone, Copy)]
pub(super) struct Final {
    pub(super) run_id: RunId,
    pub(super) version_id: VersionId,
    pub(super) ordinal: i32,
    pub(super) state: TaskState,
}

/// The counters of a task instance as a statement returned them.
pub(super) struct Counters {
    /// `None` for one that was never written down.
    pub(super) instance_id: Option<InstanceId>,
    pub(super) run_id: RunId,
    pub(super) ordinal: i32,
    pub(super) state: TaskState,
    pub(super) pending: i32,
    pub(super) ok: i32,
    pub(super) failed: i32,
    pub(super) upstream_failed: i32,
    pub(super) skipped: i32,
}

/// A run that has just started: its task instances all wait.
pub(super) struct Started {
    pub(super) run_id: RunId,
    pub(super) version_id: VersionId,
    pub(super) unfinished: i32,
}

/// A transaction that changes runs, on its way: what it must still subtract from them, and what it has done.
#[derive(Default)]
pub(super) struct Step {
    versions: BTreeMap<RunId, VersionId>,
    /// Finished task instances and failures, by run, that are not subtracted yet.
    finished: BTreeMap<RunId, (i32, i32)>,
    /// DAGs of which a run has closed.
    have_room: BTreeSet<DagId>,
    /// Gates that somebody behind them has left.
    left_gates: BTreeSet<String>,
    /// What the worker was handed over already.
    started: Vec<ClaimRow>,
    pub(super) closed: Vec<(RunId, RunState)>,
    /// How many of them people have been told of, as far as they want to.
    told: usize,
    made_ready: usize,
    /// Runs that may let the next run of their DAG go on.
    moved: BTreeSet<RunId>,
    /// Runs in which something waits for the run before.
    held: BTreeSet<RunId>,
    /// What waited for the run before and need not any more.
    released: HashSet<(RunId, i32)>,
    /// Counters of a queued task instance were touched: a claim may have skipped it meanwhile.
    touched_queued: bool,
    pub(super) effects: Effects,
}

impl Step {
    pub(super) fn effects(&self) -> Effects {
        let work = self.made_ready > 0 || self.touched_queued;
        self.effects.and(Effects {
            work,
            ..Effects::default()
        })
    }

    /// Says that something is due by the clock that was not before.
    pub(super) fn is_due(&mut self) {
        self.effects.deadline = true;
    }

    /// Says that workers have lost what they run.
    pub(super) fn took_away(&mut self) {
        self.effects.cancelled = true;
        // What it held, such as slots of a pool, others may have now.
        self.effects.work = true;
    }

    /// Closes a run that counts nothing unfinished, also when nothing is subtracted.
    pub(super) fn may_close(&mut self, run_id: RunId) {
        self.finished.entry(run_id).or_default();
    }

    pub(super) fn made_ready(&mut self, count: usize) {
        self.made_ready += count;
    }

    pub(super) fn leave_gates(&mut self, gates: impl IntoIterator<Item = String>) {
        self.left_gates.extend(gates);
    }

    pub(super) fn take_left_gates(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.left_gates)
    }

    /// Notes DAGs, locked already, that have a new run to start. Whoever serves its queues hears of it.
    pub(super) fn start_later(&mut self, dags: impl IntoIterator<Item = DagId>) {
        for dag in dags {
            self.have_room.insert(dag);
            self.touched_queued = true;
        }
    }

    /// The versions of the runs it changes.
    pub(super) fn versions(&self) -> impl Iterator<Item = VersionId> + '_ {
        self.versions.values().copied()
    }

    fn run_ids(&self) -> Vec<i64> {
        self.versions.keys().map(|run_id| run_id.0).collect()
    }

    /// Runs whose successors may go on, and runs in which something waits for the run before.
    pub(super) fn take_nudges(&mut self) -> (Vec<i64>, Vec<i64>) {
        let numbers = |runs: &mut BTreeSet<RunId>| {
            std::mem::take(runs)
                .into_iter()
                .map(|run_id| run_id.0)
                .collect()
        };
        (numbers(&mut self.moved), numbers(&mut self.held))
    }

    /// Lets the run after look again: people or the clock have ended tasks of this one.
    pub(super) fn has_moved(&mut self, run_id: RunId) {
        self.moved.insert(run_id);
    }

    /// Notes a run again in which something waits for the run before.
    pub(super) fn hold(&mut self, run_id: RunId) {
        self.held.insert(run_id);
    }

    /// Lets a task go on that waited for the run before.
    pub(super) fn release(&mut self, run_id: RunId, ordinal: i32) {
        self.released.insert((run_id, ordinal));
    }

    /// Notes a final state that the run after may wait for.
    fn note_final(&mut self, dag: &Dag, run_id: RunId, ordinal: i32, state: TaskState) {
        if task_at(dag, ordinal).flow.depends_on_previous
            && matches!(state, TaskState::Success | TaskState::Skipped)
        {
            self.moved.insert(run_id);
        }
    }

    /// The runs that were closed since the last call.
    pub(super) fn take_untold(&mut self) -> Vec<(RunId, VersionId, RunState)> {
        let untold = &self.closed[self.told..];
        self.told = self.closed.len();
        untold
            .iter()
            .filter_map(|(run_id, state)| Some((*run_id, *self.versions.get(run_id)?, *state)))
            .collect()
    }

    pub(super) fn knows(&mut self, run_id: RunId, version_id: VersionId) {
        self.versions.insert(run_id, version_id);
    }
}

impl Store {
    /// Settles a batch in one transaction. An execution whose fence does not hold is refused and changes nothing.
    /// Calling it again with the same batch after a lost answer is harmless: what was recorded then is not refused now.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached; nothing is known about the batch then.
    pub async fn settle(&self, batch: &[Ended]) -> Result<Settled, Error> {
        self.settle_and_claim(batch, Appetite::NONE).await
    }

    /// [`Store::settle`], and a claim for the freed slots in the same transaction.
    ///
    /// # Errors
    /// As there; what a lost answer claimed is found by [`Store::held_by`].
    pub async fn settle_and_claim(
        &self,
        batch: &[Ended],
        appetite: Appetite<'_>,
    ) -> Result<Settled, Error> {
        if let Some(at) = repeats_at(batch) {
            let (first, rest) = batch.split_at(at);
            let first = Box::pin(self.settle(first)).await?;
            let mut settled = Box::pin(self.settle_and_claim(rest, appetite)).await?;
            settled.refused.extend(first.refused);
            settled.closed.extend(first.closed);
            settled.effects = settled.effects.and(first.effects);
            return Ok(settled);
        }
        let mut connection = self.hot.acquire().await?;
        if self.is_one_statement(batch) {
            return self.settle_at_once(&mut connection, batch, appetite).await;
        }
        let mut transaction = connection.begin().await?;
        let mut step = Step::default();
        let mut refused = self
            .settle_by(&mut transaction, batch, appetite, &mut step)
            .await?;
        if !refused.is_empty() {
            self.forgive_recorded(&mut transaction, batch, &mut refused)
                .await?;
        }
        let started = step.started.len();
        let mut taken = Taken::default();
        let rest = Appetite {
            slots: appetite.slots.saturating_sub(started),
            ..appetite
        };
        if rest.slots > 0 {
            taken = self.claim_by(&mut transaction, rest).await?;
        }
        let claimed_here = taken.claimed.len();
        let handed_over = std::mem::take(&mut step.started);
        let mut handed_over = self
            .completed(&mut transaction, appetite.worker_id, handed_over)
            .await?;
        transaction.commit().await?;
        handed_over.append(&mut taken.claimed);
        taken.claimed = handed_over;
        let mut settled = Settled::new(refused, step);
        // What was made claimable here was claimed here: nobody else needs to wake up for it.
        settled.effects.work &= settled.made_ready > claimed_here
            || settled.touched_queued
            || !self.is_all_for(batch, appetite.queues);
        settled.taken = taken;
        Ok(settled)
    }

    /// Whether a worker of these queues serves every task of the DAGs in a batch. Otherwise what it claimed may be other
    /// work than what it left.
    fn is_all_for(&self, batch: &[Ended], queues: &[String]) -> bool {
        let versions: BTreeSet<VersionId> = batch
            .iter()
            .map(|ended| ended.execution.version_id)
            .collect();
        let [queue] = queues else {
            return false;
        };
        versions.into_iter().all(|version| {
            self.known_definition(version)
                .is_some_and(|dag| dag.tasks.iter().all(|task| task.queue == *queue))
        })
    }

    /// Whether everything that follows from a batch follows in the settling statement itself, whatever the tables hold:
    /// plain successes, each with a task downstream (so no run closes), and each of these with no other task upstream.
    fn is_one_statement(&self, batch: &[Ended]) -> bool {
        batch.iter().all(|ended| {
            let Some(dag) = self.known_definition(ended.execution.version_id) else {
                return false;
            };
            let task = task_at(&dag, ended.execution.ordinal);
            matches!(ended.ending, Ending::Success { .. })
                && ended.lines.is_empty()
                && task.outlets.is_empty()
                && !task.flow.depends_on_previous
                && !task.flow.setup
                && ended.rendered.is_none()
                && !ended.execution.continues
                && dag.max_active_tasks.is_none()
                && task.concurrency.is_none()
                && !alerts::hears_success(&dag, ended.execution.ordinal)
                && !task.downstream.is_empty()
                && task.downstream.iter().all(|below| {
                    let below = &dag.tasks[*below];
                    below.upstream.len() == 1 && dag.runs_if_all_ok(below)
                })
        }) && self.without_edges(batch).len() == 1
    }

    /// Settles a batch of which [`Store::is_one_statement`] holds: one round trip and one commit.
    async fn settle_at_once(
        &self,
        connection: &mut PgConnection,
        batch: &[Ended],
        appetite: Appetite<'_>,
    ) -> Result<Settled, Error> {
        let mut next = Vec::with_capacity(batch.len());
        for ended in batch {
            let dag = self
                .definition_by(connection, ended.execution.version_id)
                .await?;
            next.push(what_next(ended, task_at(&dag, ended.execution.ordinal)));
        }
        let everything: Vec<usize> = (0..batch.len()).collect();
        let written = write::outcomes(
            connection,
            batch,
            &next,
            &everything,
            appetite,
            |execution| self.fails_run(execution),
        )
        .await?;
        let mut step = Step::default();
        let mut accepted = HashSet::new();
        let mut undecided = Vec::new();
        Self::sort_in(written, &mut accepted, &mut undecided, &mut step);
        let mut refused: BTreeSet<InstanceId> = batch
            .iter()
            .map(|ended| ended.execution.instance_id)
            .filter(|instance_id| !accepted.contains(instance_id))
            .collect();
        if !refused.is_empty() {
            self.forgive_recorded(connection, batch, &mut refused)
                .await?;
        }
        let started = std::mem::take(&mut step.started);
        let claimed = self
            .completed(connection, appetite.worker_id, started)
            .await?;
        let made_ready = step.made_ready;
        let handed_over = claimed.len();
        let has_room = handed_over < appetite.slots;
        let mut settled = Settled::new(refused, step);
        settled.taken = Taken {
            claimed,
            // A slot that nobody was handed is free for what waits elsewhere.
            look_again: has_room && (made_ready > 0 || handed_over < batch.len()),
            contended: false,
        };
        settled.looked = false;
        settled.effects.work &= made_ready > 0 || settled.touched_queued;
        Ok(settled)
    }

    /// Records a failure in place of a result that Postgres refuses to store, without anything it brought along.
    ///
    /// # Errors
    /// Postgres refused that as well, or cannot be reached.
    pub async fn settle_unstorable(
        &self,
        ended: &Ended,
        failure: &Failure,
    ) -> Result<Settled, Error> {
        let in_its_place = Ended {
            execution: ended.execution.same(),
            ending: Ending::Failed(failure.clone()),
            lines: Vec::new(),
            rendered: None,
            span: ended.span,
        };
        self.settle(&[in_its_place]).await
    }

    /// Takes those out of `refused` that an earlier call recorded whose answer was lost.
    async fn forgive_recorded(
        &self,
        connection: &mut PgConnection,
        batch: &[Ended],
        refused: &mut BTreeSet<InstanceId>,
    ) -> Result<(), Error> {
        let doubtful = || {
            batch
                .iter()
                .map(|ended| &ended.execution)
                .filter(|execution| refused.contains(&execution.instance_id))
        };
        let instances: Vec<i64> = doubtful()
            .map(|execution| execution.instance_id.0)
            .collect();
        let epochs: Vec<i32> = doubtful().map(|execution| execution.epoch).collect();
        let workers: Vec<i64> = doubtful().map(|execution| execution.worker_id.0).collect();
        let recorded = sqlx::query_file_scalar!(
            "src/store/queries/read_recorded.sql",
            &instances,
            &epochs,
            &workers
        )
        .fetch_all(connection)
        .await?;
        for instance_id in recorded {
            refused.remove(&instance_id);
        }
        Ok(())
    }

    /// The settle step inside a transaction of the caller's; returns what was refused.
    pub(super) async fn settle_by(
        &self,
        connection: &mut PgConnection,
        batch: &[Ended],
        appetite: Appetite<'_>,
        step: &mut Step,
    ) -> Result<BTreeSet<InstanceId>, Error> {
        if batch.is_empty() {
            return Ok(BTreeSet::new());
        }
        let versions = batch
            .iter()
            .map(|ended| ended.execution.version_id)
            .collect();
        self.know_definitions(connection, &versions).await?;
        let mut next = Vec::with_capacity(batch.len());
        for ended in batch {
            let dag = self
                .definition_by(connection, ended.execution.version_id)
                .await?;
            next.push(what_next(ended, task_at(&dag, ended.execution.ordinal)));
        }
        for ended in batch {
            step.knows(ended.execution.run_id, ended.execution.version_id);
        }
        let mut accepted = HashSet::new();
        let mut counters = Vec::new();
        // What goes back to be claimed again may come before what is promoted here.
        let goes_back = next.iter().any(|next| next.state == TaskState::Queued);
        let appetite = if goes_back { Appetite::NONE } else { appetite };
        for group in self.without_edges(batch) {
            let rest = Appetite {
                slots: appetite.slots.saturating_sub(step.started.len()),
                ..appetite
            };
            let written = write::outcomes(connection, batch, &next, &group, rest, |execution| {
                self.fails_run(execution)
            })
            .await?;
            Self::sort_in(written, &mut accepted, &mut counters, step);
        }
        let accepted_now = || {
            batch
                .iter()
                .zip(&next)
                .filter(|(ended, _)| accepted.contains(&ended.execution.instance_id))
        };
        let succeeded = accepted_now()
            .filter(|(_, next)| next.state == TaskState::Success)
            .map(|(ended, next)| (ended, next.output.as_ref()));
        self.announce_settled(connection, succeeded, step).await?;

        write::attachments(connection, batch).await?;
        write::sleepers(connection, accepted_now()).await?;
        write::forget_resumes(connection, accepted_now()).await?;
        write::requeue(connection, accepted_now(), step).await?;
        self.expand(connection, accepted_now(), step).await?;
        for (ended, next) in accepted_now() {
            if let Some(dag) = self.known_definition(ended.execution.version_id) {
                let execution = &ended.execution;
                step.note_final(&dag, execution.run_id, execution.ordinal, next.state);
            }
        }
        self.tell_of_tries(connection, accepted_now(), step).await?;
        if self.seen(Seen::LimitedPools) && !accepted.is_empty() {
            // A slot of a pool may have become free that this worker, which serves other queues, will not claim.
            step.touched_queued = true;
        }
        let may_expire = |ended: &Ended| {
            self.known_definition(ended.execution.version_id)
                .is_some_and(|dag| {
                    task_at(&dag, ended.execution.ordinal)
                        .queue_timeout
                        .is_some()
                })
        };
        if accepted_now().any(|(ended, next)| {
            next.sleep.is_some() || next.state == TaskState::Queued && may_expire(ended)
        }) {
            step.effects.deadline = true;
        }
        let ended: Vec<Final> = accepted_now()
            .filter(|(_, next)| next.state.is_final())
            .map(|(ended, next)| Final {
                run_id: ended.execution.run_id,
                version_id: ended.execution.version_id,
                ordinal: ended.execution.ordinal,
                state: next.state,
            })
            .collect();
        self.add_watchers(connection, &ended, &mut counters).await?;
        let finals = self.promote(connection, &counters, step).await?;
        self.cascade(connection, finals, step).await?;
        self.finish(connection, step).await?;
        Ok(batch
            .iter()
            .map(|ended| ended.execution.instance_id)
            .filter(|instance_id| !accepted.contains(instance_id))
            .collect())
    }

    /// Splits a batch into groups, in which no task instance is downstream of another: positions in the batch. Nearly
    /// always one group; a task that does not wait for all of its upstream tasks may end together with one of them.
    fn without_edges(&self, batch: &[Ended]) -> Vec<Vec<usize>> {
        let place = |ended: &Ended| (ended.execution.run_id, ended.execution.ordinal);
        // A mapped task has many at the same place.
        let mut positions: HashMap<_, Vec<usize>> = HashMap::with_capacity(batch.len());
        for (position, ended) in batch.iter().enumerate() {
            positions.entry(place(ended)).or_default().push(position);
        }
        // Ordinals are a topological order, so whatever is upstream has its group already.
        let mut order: Vec<usize> = (0..batch.len()).collect();
        order.sort_by_key(|position| place(&batch[*position]));
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut group_of = vec![0; batch.len()];
        for position in order {
            let ended = &batch[position];
            groups.resize_with(groups.len().max(group_of[position] + 1), Vec::new);
            groups[group_of[position]].push(position);
            if batch.len() == 1 {
                continue;
            }
            let Some(dag) = self.known_definition(ended.execution.version_id) else {
                continue;
            };
            for below in &task_at(&dag, ended.execution.ordinal).downstream {
                let below = i32::try_from(*below).unwrap_or(i32::MAX);
                let there = positions.get(&(ended.execution.run_id, below));
                for below in there.into_iter().flatten() {
                    group_of[*below] = group_of[*below].max(group_of[position] + 1);
                }
            }
        }
        groups
    }

    /// Whether the failure of a task fails its run. The definitions are known: what follows was decided by them.
    fn fails_run(&self, execution: &Execution) -> bool {
        self.known_definition(execution.version_id)
            .is_none_or(|dag| !task_at(&dag, execution.ordinal).allow_failure)
    }

    fn sort_in(
        written: Vec<Written>,
        accepted: &mut HashSet<InstanceId>,
        counters: &mut Vec<Counters>,
        step: &mut Step,
    ) {
        for row in written {
            match row {
                Written::Settled(instance_id) => {
                    accepted.insert(instance_id);
                }
                Written::Counted(row) => {
                    // A later group may have counted on the same row; its numbers are the newer ones.
                    counters.retain(|one: &Counters| one.instance_id != row.instance_id);
                    counters.push(row);
                }
                Written::Promoted => step.made_ready += 1,
                Written::Started(row) => step.started.push(*row),
                Written::Closed(run_id, dag_id, state) => {
                    step.closed.push((run_id, state));
                    step.have_room.insert(dag_id);
                }
                Written::Left(gate) => {
                    step.left_gates.insert(gate);
                }
            }
        }
    }

    /// Carries final states downstream until nothing changes: counters, verdicts, promotions, and again for what the
    /// verdicts made final.
    pub(super) async fn cascade(
        &self,
        connection: &mut PgConnection,
        mut finals: Vec<Final>,
        step: &mut Step,
    ) -> Result<(), Error> {
        while !finals.is_empty() {
            self.count_finished(connection, &finals, step).await?;
            let has_downstream = finals.iter().any(|last| {
                self.known_definition(last.version_id)
                    .is_none_or(|dag| !task_at(&dag, last.ordinal).downstream.is_empty())
            });
            let mut counters = Vec::new();
            if has_downstream {
                counters = write::count_outcomes(connection, &finals).await?;
            }
            self.add_watchers(connection, &finals, &mut counters)
                .await?;
            if counters.is_empty() {
                return Ok(());
            }
            finals = self.promote(connection, &counters, step).await?;
        }
        Ok(())
    }

    /// Adds what waits for the setups among `ended` without being directly downstream of them.
    async fn add_watchers(
        &self,
        connection: &mut PgConnection,
        ended: &[Final],
        counters: &mut Vec<Counters>,
    ) -> Result<(), Error> {
        let mut watchers: BTreeSet<(RunId, i32)> = BTreeSet::new();
        for last in ended {
            let dag = self.definition_by(connection, last.version_id).await?;
            if task_at(&dag, last.ordinal).flow.setup {
                watchers.extend(
                    dag.watchers(index(last.ordinal))
                        .map(|watcher| (last.run_id, i32::try_from(watcher).unwrap_or(i32::MAX))),
                );
            }
        }
        for row in counters.iter() {
            watchers.remove(&(row.run_id, row.ordinal));
        }
        if watchers.is_empty() {
            return Ok(());
        }
        let (runs, ordinals): (Vec<i64>, Vec<i32>) = watchers
            .into_iter()
            .map(|(run_id, ordinal)| (run_id.0, ordinal))
            .unzip();
        counters.extend(
            sqlx::query_file_as!(
                Counters,
                "src/store/queries/read_waiting_at.sql",
                &runs,
                &ordinals
            )
            .fetch_all(connection)
            .await?,
        );
        Ok(())
    }

    async fn count_finished(
        &self,
        connection: &mut PgConnection,
        finals: &[Final],
        step: &mut Step,
    ) -> Result<(), Error> {
        for last in finals {
            let dag = self.definition_by(connection, last.version_id).await?;
            let fails_run = matches!(last.state, TaskState::Failed | TaskState::Cancelled)
                && !task_at(&dag, last.ordinal).allow_failure;
            step.note_final(&dag, last.run_id, last.ordinal, last.state);
            let (finished, failures) = step.finished.entry(last.run_id).or_default();
            *finished += 1;
            *failures += i32::from(fails_run);
        }
        Ok(())
    }

    /// Decides the trigger rules of waiting task instances and writes what was decided; returns what became final.
    pub(super) async fn promote(
        &self,
        connection: &mut PgConnection,
        counters: &[Counters],
        step: &mut Step,
    ) -> Result<Vec<Final>, Error> {
        let sights = self.sights(connection, counters, step).await?;
        let mut promoted = Vec::new();
        let mut decided = HashSet::new();
        for row in counters {
            match row.state {
                TaskState::Waiting => {}
                TaskState::Queued => {
                    step.touched_queued = true;
                    continue;
                }
                TaskState::Running
                | TaskState::Sleeping
                | TaskState::Success
                | TaskState::Failed
                | TaskState::Skipped
                | TaskState::UpstreamFailed
                | TaskState::Cancelled => continue,
            }
            let version_id = *step
                .versions
                .get(&row.run_id)
                .expect("every run of a step is locked and noted first");
            let dag = self.definition_by(connection, version_id).await?;
            let ordinal = index(row.ordinal);
            let nothing = flow::Sights::new();
            let seen = sights.get(&row.run_id).unwrap_or(&nothing);
            let state = match flow::decide(&dag, ordinal, &upstream(row), seen) {
                Verdict::Wait { .. } => continue,
                Verdict::Run { .. }
                    if dag.tasks[ordinal].flow.depends_on_previous
                        && !step.released.contains(&(row.run_id, row.ordinal)) =>
                {
                    // Whoever looks at the run before has to lock it first: a step of its own does.
                    step.held.insert(row.run_id);
                    continue;
                }
                Verdict::Run { .. } => TaskState::Queued,
                Verdict::Skip { .. } => TaskState::Skipped,
                Verdict::UpstreamFailed { .. } => TaskState::UpstreamFailed,
            };
            // All items of a mapped task that wait have the same counters, and are written together.
            if !decided.insert((row.run_id, row.ordinal)) {
                continue;
            }
            step.effects.deadline |=
                state == TaskState::Queued && dag.tasks[ordinal].queue_timeout.is_some();
            promoted.push(Final {
                run_id: row.run_id,
                version_id,
                ordinal: row.ordinal,
                state,
            });
        }
        let gates = self
            .put_up_gates(connection, &promoted, &step.run_ids())
            .await?;
        self.put_up_item_gates(connection, &promoted, &step.run_ids())
            .await?;
        let made_ready = write::promotions(connection, &promoted, &gates, |version| {
            self.known_definition(version)
        })
        .await?;
        step.made_ready += made_ready;
        promoted.retain(|one| one.state.is_final());
        Ok(each_instance(promoted, counters))
    }

    /// Subtracts what finished from the runs, closes those at zero, starts the next runs of their DAGs, and lets out what
    /// waited behind gates that have room now.
    pub(super) async fn finish(
        &self,
        connection: &mut PgConnection,
        step: &mut Step,
    ) -> Result<(), Error> {
        while !step.finished.is_empty() || !step.have_room.is_empty() {
            let finished = std::mem::take(&mut step.finished);
            if !finished.is_empty() {
                let rows = write::count_down(connection, &finished).await?;
                for (run_id, dag_id, state) in rows {
                    step.closed.push((run_id, state));
                    step.have_room.insert(dag_id);
                }
            }
            let dags = std::mem::take(&mut step.have_room);
            self.start_runs(connection, &dags, step).await?;
        }
        self.tell_of_closed(connection, step).await?;
        self.note_nudges(connection, step).await?;
        self.let_out(connection, step).await
    }

    /// Starts queued runs of these DAGs as far as `max_active_runs` allows, goes on with their backfills, and queues the
    /// tasks that begin.
    pub(super) async fn start_runs(
        &self,
        connection: &mut PgConnection,
        dags: &BTreeSet<DagId>,
        step: &mut Step,
    ) -> Result<(), Error> {
        if dags.is_empty() {
            return Ok(());
        }
        // Putting up gates later locks the DAGs of all runs of this step, and two that do so must not meet halfway.
        let of_gates = step.versions.values().filter_map(|version| {
            let dag = self.known_definition(*version)?;
            let has_gates = dag.max_active_tasks.is_some()
                || dag.tasks.iter().any(|task| task.concurrency.is_some());
            has_gates.then(|| dag.id.as_str().to_owned())
        });
        let locked: BTreeSet<String> = dags
            .iter()
            .map(|dag| dag.as_str().to_owned())
            .chain(of_gates)
            .collect();
        let locked: Vec<String> = locked.into_iter().collect();
        let dags: Vec<String> = dags.iter().map(|dag| dag.as_str().to_owned()).collect();
        let backfills = sqlx::query_file!("src/store/queries/lock_dags.sql", &locked)
            .fetch_all(&mut *connection)
            .await?
            .into_iter()
            .filter(|row| dags.contains(&row.dag_id))
            .map(|row| row.open_backfill);
        let mut started = sqlx::query_file_as!(Started, "src/store/queries/start_runs.sql", &dags)
            .fetch_all(&mut *connection)
            .await?;
        for backfill_id in backfills.flatten() {
            let begun = self.advance_backfill(connection, backfill_id, step).await?;
            started.extend(begun);
        }
        let versions = started.iter().map(|run| run.version_id).collect();
        self.know_definitions(connection, &versions).await?;
        let begun: Vec<_> = started
            .iter()
            .map(|run| (run.run_id, run.version_id))
            .collect();
        self.begin_deadlines(connection, &begun, step).await?;
        let mut counters = Vec::new();
        let mut limited = Vec::new();
        for run in &started {
            step.knows(run.run_id, run.version_id);
            if run.unfinished == 0 {
                step.finished.entry(run.run_id).or_default();
            }
            let dag = self.definition_by(connection, run.version_id).await?;
            limited.extend(dag.timeout.map(|timeout| (run.run_id, timeout)));
            counters.extend(dag.tasks.iter().zip(0..).map(|(task, ordinal)| Counters {
                instance_id: None,
                run_id: run.run_id,
                ordinal,
                state: TaskState::Waiting,
                pending: i32::try_from(task.upstream.len()).unwrap_or(i32::MAX),
                ok: 0,
                failed: 0,
                upstream_failed: 0,
                skipped: 0,
            }));
        }
        time_limits::limit_runs(connection, &limited, step).await?;
        let finals = self.promote(connection, &counters, step).await?;
        self.cascade(connection, finals, step).await
    }
}

/// Where a batch has a second execution of a task instance: one of a lease that was lost, which its process ended late,
/// beside the one that the same process got under its next lease. A statement tells them apart by their instance only.
fn repeats_at(batch: &[Ended]) -> Option<usize> {
    let mut seen = HashSet::with_capacity(batch.len());
    batch
        .iter()
        .position(|ended| !seen.insert(ended.execution.instance_id))
}

/// Items of a mapped task have the same place, and each of them counts.
fn each_instance(finals: Vec<Final>, counters: &[Counters]) -> Vec<Final> {
    let mut waiting: HashMap<(RunId, i32), usize> = HashMap::new();
    for row in counters
        .iter()
        .filter(|row| row.state == TaskState::Waiting)
    {
        *waiting.entry((row.run_id, row.ordinal)).or_default() += 1;
    }
    finals
        .into_iter()
        .flat_map(|one| {
            let count = waiting
                .get(&(one.run_id, one.ordinal))
                .copied()
                .unwrap_or(1);
            std::iter::repeat_n(one, count)
        })
        .collect()
}

fn index(ordinal: i32) -> usize {
    usize::try_from(ordinal).expect("ordinals are indices into the version's tasks")
}

fn upstream(row: &Counters) -> Upstream {
    let count = |number: i32| {
        u32::try_from(number).expect("a constraint keeps counters from being negative")
    };
    Upstream {
        // An upstream task that is mapped counts once for each item.
        total: count(row.pending + row.ok + row.failed + row.upstream_failed + row.skipped),
        pending: count(row.pending),
        ok: count(row.ok),
        failed: count(row.failed),
        upstream_failed: count(row.upstream_failed),
        skipped: count(row.skipped),
    }
}
