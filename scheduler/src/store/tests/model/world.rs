//! What the store should hold, by definition: states that move along the table of transitions, counters that are
//! counted and never kept. It knows nothing of SQL, batches or locks.

use std::collections::BTreeSet;

use pinwheel_tasks::{Failure, FailureClass};

use super::{
    super::{Ended, Ending, Execution},
    story::{Due, NARROW, NARROW_SLOTS},
};
use crate::model::{
    Dag, InstanceId, RunId, RunState, SleepReason, TaskState, TryOutcome, WorkerId,
    retry::{self, Decision, Failed, Tries},
    state::By,
    trigger_rule::{Upstream, Verdict, decide},
};
use crate::store::{ClearScope, MarkedAs};

/// The runs of one DAG, and the leases under which they are worked at.
pub(super) struct World {
    pub(super) dag: Dag,
    pub(super) is_paused: bool,
    pub(super) runs: Vec<Run>,
    pub(super) leases: Vec<Lease>,
}

/// One run with its task instances, by ordinal.
pub(super) struct Run {
    pub(super) run_id: RunId,
    pub(super) state: RunState,
    pub(super) tasks: Vec<Instance>,
}

/// One task instance.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) instance_id: InstanceId,
    pub(super) state: TaskState,
    pub(super) holder: Option<WorkerId>,
    pub(super) epoch: i32,
    pub(super) tries: i32,
    pub(super) tries_allowed: i32,
    pub(super) lost: i32,
    pub(super) sleep: Option<(SleepReason, Due)>,
    /// It slept in the middle of a try, and goes on from there.
    pub(super) resumes: bool,
    pub(super) has_output: bool,
    pub(super) history: Vec<Recorded>,
}

/// An execution that was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Recorded {
    pub(super) instance_id: InstanceId,
    pub(super) epoch: i32,
    pub(super) try_number: i32,
    pub(super) worker_id: WorkerId,
    pub(super) outcome: Option<TryOutcome>,
}

/// The lease of one worker.
pub(super) struct Lease {
    pub(super) worker_id: WorkerId,
    pub(super) queues: &'static [&'static str],
    /// The clock has passed its end. Nothing follows from that until somebody reaps.
    pub(super) is_over: bool,
    pub(super) is_ended: bool,
}

/// A task instance's place: run, and ordinal within it.
pub(super) type Place = (usize, usize);

impl Instance {
    fn new(instance_id: InstanceId, retries: u32) -> Self {
        Self {
            instance_id,
            state: TaskState::Waiting,
            holder: None,
            epoch: 0,
            tries: 0,
            tries_allowed: i32::try_from(retries).unwrap() + 1,
            lost: 0,
            sleep: None,
            resumes: false,
            has_output: false,
            history: Vec::new(),
        }
    }

    /// The only way in which a state changes.
    fn become_by(&mut self, next: TaskState, by: By) {
        assert!(
            self.state.can_become(next, by),
            "{:?} cannot become {next:?} by {by:?}",
            self.state
        );
        self.state = next;
        if next != TaskState::Sleeping {
            self.sleep = None;
        }
        if next != TaskState::Running {
            self.holder = None;
        }
    }
}

impl Run {
    fn become_by(&mut self, next: RunState, by: By) {
        assert!(
            self.state.can_become(next, by),
            "{:?} cannot become {next:?} by {by:?}",
            self.state
        );
        self.state = next;
    }

    pub(super) fn unfinished(&self) -> usize {
        self.tasks
            .iter()
            .filter(|task| !task.state.is_final())
            .count()
    }

    /// What became of what is above a task: pending, ok, failed, upstream failed, skipped.
    pub(super) fn upstream(&self, dag: &Dag, ordinal: usize) -> Upstream {
        count(dag, ordinal, |above| self.tasks[above].state)
    }
}

/// Counts the states of what is above a task.
pub(super) fn count(dag: &Dag, ordinal: usize, state: impl Fn(usize) -> TaskState) -> Upstream {
    let mut counts = Upstream::default();
    for above in &dag.tasks[ordinal].upstream {
        counts.total += 1;
        *match state(*above) {
            TaskState::Waiting | TaskState::Queued | TaskState::Running | TaskState::Sleeping => {
                &mut counts.pending
            }
            TaskState::Success => &mut counts.ok,
            TaskState::Failed | TaskState::Cancelled => &mut counts.failed,
            TaskState::UpstreamFailed => &mut counts.upstream_failed,
            TaskState::Skipped => &mut counts.skipped,
        } += 1;
    }
    counts
}

impl World {
    pub(super) fn new(dag: Dag) -> Self {
        Self {
            dag,
            is_paused: false,
            runs: Vec::new(),
            leases: Vec::new(),
        }
    }

    pub(super) fn at(&self, (run, ordinal): Place) -> &Instance {
        &self.runs[run].tasks[ordinal]
    }

    pub(super) fn at_mut(&mut self, (run, ordinal): Place) -> &mut Instance {
        &mut self.runs[run].tasks[ordinal]
    }

    pub(super) fn places(&self) -> impl Iterator<Item = Place> + '_ {
        self.runs
            .iter()
            .enumerate()
            .flat_map(|(run, one)| (0..one.tasks.len()).map(move |ordinal| (run, ordinal)))
    }

    pub(super) fn find(&self, instance_id: InstanceId) -> Place {
        self.places()
            .find(|place| self.at(*place).instance_id == instance_id)
            .expect("the store makes no task instances by itself")
    }

    pub(super) fn is_queued(&self, place: Place) -> bool {
        self.at(place).state == TaskState::Queued
    }

    /// Slots of the pool that has a limit, as a task takes them.
    pub(super) fn slots_of(&self, ordinal: usize) -> Option<i32> {
        let task = &self.dag.tasks[ordinal];
        (task.pool == NARROW).then(|| NARROW_SLOTS.min(i32::try_from(task.slots).unwrap()))
    }

    pub(super) fn narrow_in_use(&self) -> i32 {
        self.places()
            .filter(|place| self.at(*place).state == TaskState::Running)
            .filter_map(|(_, ordinal)| self.slots_of(ordinal))
            .sum()
    }

    /// Says whether a task has to pass a gate, and may have to wait before it.
    pub(super) fn is_gated(&self, ordinal: usize) -> bool {
        self.dag.max_active_tasks.is_some() || self.dag.tasks[ordinal].concurrency.is_some()
    }

    /// More never run at once than the gates let through: `max_active_tasks` in a run, a concurrency key's limit in all.
    pub(super) fn check_gates(&self) {
        let running: Vec<Place> = self
            .places()
            .filter(|place| self.at(*place).state == TaskState::Running)
            .collect();
        if let Some(most) = self.dag.max_active_tasks {
            for run in 0..self.runs.len() {
                let of_run = running.iter().filter(|place| place.0 == run).count();
                assert!(
                    of_run <= usize::try_from(most).unwrap(),
                    "{of_run} of {most}"
                );
            }
        }
        let limits = running
            .iter()
            .filter_map(|place| self.dag.tasks[place.1].concurrency.as_ref());
        let behind_key = limits.clone().count();
        for key in limits {
            assert!(behind_key <= usize::try_from(key.limit).unwrap(), "{key:?}");
        }
    }

    /// A new run, its task instances by ordinal.
    pub(super) fn trigger(&mut self, run_id: RunId, instances: Vec<InstanceId>) {
        let tasks = instances
            .into_iter()
            .zip(&self.dag.tasks)
            .map(|(instance_id, task)| Instance::new(instance_id, task.retries))
            .collect();
        self.runs.push(Run {
            run_id,
            state: RunState::Queued,
            tasks,
        });
        self.follow();
    }

    /// A worker takes a task instance that the store gave it.
    pub(super) fn claim(&mut self, execution: &Execution) {
        let place = self.find(execution.instance_id);
        assert_eq!(self.runs[place.0].state, RunState::Running);
        let instance = self.at_mut(place);
        instance.become_by(TaskState::Running, By::Claim);
        instance.holder = Some(execution.worker_id);
        instance.epoch += 1;
        instance.tries += i32::from(!instance.resumes);
        assert_eq!(
            (
                execution.epoch,
                execution.tries,
                execution.tries_allowed,
                execution.lost,
                execution.continues
            ),
            (
                instance.epoch,
                instance.tries,
                instance.tries_allowed,
                instance.lost,
                instance.resumes
            ),
            "a worker is told what it holds: {instance:?}"
        );
    }

    /// Says whether an execution still owns its task instance.
    pub(super) fn owns(&self, execution: &Execution) -> bool {
        let instance = self.at(self.find(execution.instance_id));
        instance.state == TaskState::Running
            && instance.holder == Some(execution.worker_id)
            && instance.epoch == execution.epoch
    }

    /// Says whether an execution was recorded by its own worker.
    pub(super) fn recorded(&self, execution: &Execution) -> bool {
        self.at(self.find(execution.instance_id))
            .history
            .iter()
            .any(|row| {
                row.epoch == execution.epoch
                    && row.worker_id == execution.worker_id
                    && !matches!(row.outcome, Some(TryOutcome::Lost | TryOutcome::Cancelled))
            })
    }

    /// Executions end, all at once; returns what is refused.
    pub(super) fn settle(&mut self, batch: &[Ended]) -> BTreeSet<InstanceId> {
        let mut refused = BTreeSet::new();
        for ended in batch {
            if self.owns(&ended.execution) {
                self.end(self.find(ended.execution.instance_id), &ended.ending);
            } else if !self.recorded(&ended.execution) {
                refused.insert(ended.execution.instance_id);
            }
        }
        self.follow();
        refused
    }

    fn end(&mut self, place: Place, ending: &Ending) {
        let task = self.dag.tasks[place.1].clone();
        let instance = self.at_mut(place);
        let begun_here = i32::from(!instance.resumes);
        match ending {
            Ending::Success { output } => {
                instance.record(Some(TryOutcome::Success));
                instance.has_output |= output.as_object().is_some_and(|output| !output.is_empty());
                instance.become_by(TaskState::Success, By::Settle);
                instance.resumes = false;
            }
            Ending::Skipped { .. } => {
                instance.record(Some(TryOutcome::Skipped));
                instance.become_by(TaskState::Skipped, By::Settle);
                instance.resumes = false;
            }
            Ending::Sleep { .. } => {
                instance.record(None);
                instance.become_by(TaskState::Sleeping, By::Settle);
                instance.sleep = Some((SleepReason::Deferred, Due::Soon));
                instance.resumes = true;
            }
            Ending::Expanded { .. } => panic!("no task here has items"),
            Ending::GivenBack => {
                instance.become_by(TaskState::Queued, By::Release);
                instance.tries -= begun_here;
            }
            Ending::Failed(failure) => {
                instance.record(Some(outcome(failure.class)));
                instance.lost += i32::from(failure.class == FailureClass::Lost);
                let number = |number: i32| u32::try_from(number).unwrap();
                let tries = Tries {
                    instance_id: instance.instance_id,
                    begun: number(instance.tries),
                    allowed: number(instance.tries_allowed),
                    lost: number(instance.lost),
                };
                let failed = Failed {
                    class: failure.class,
                    exit_code: failure.exit_code,
                };
                match retry::decide(&task, failed, tries) {
                    Decision::Fail { .. } => {
                        instance.become_by(TaskState::Failed, By::Settle);
                        instance.resumes = false;
                    }
                    Decision::Again => {
                        instance.become_by(TaskState::Queued, By::Release);
                        instance.tries -= begun_here;
                    }
                    Decision::Retry { .. } => {
                        instance.become_by(TaskState::Sleeping, By::Settle);
                        instance.sleep = Some((SleepReason::Retry, Due::Later));
                        instance.resumes = false;
                    }
                }
            }
        }
    }

    /// Ends the leases that are over, and with them what they held.
    pub(super) fn reap(&mut self) {
        let over: Vec<WorkerId> = self
            .leases
            .iter_mut()
            .filter(|lease| lease.is_over && !lease.is_ended)
            .map(|lease| {
                lease.is_ended = true;
                lease.worker_id
            })
            .collect();
        let lost = Ending::Failed(Failure {
            class: FailureClass::Lost,
            message: String::new(),
            hint: None,
            exit_code: None,
        });
        let places: Vec<Place> = self.places().collect();
        for place in places {
            if self
                .at(place)
                .holder
                .is_some_and(|holder| over.contains(&holder))
            {
                self.end(place, &lost);
            }
        }
        self.follow();
    }

    /// Queues what sleeps and is due by a clock that is so far ahead; returns how many.
    pub(super) fn wake(&mut self, clock: Due) -> usize {
        let due: Vec<Place> = self
            .places()
            .filter(|place| self.at(*place).sleep.is_some_and(|(_, due)| due <= clock))
            .collect();
        for place in &due {
            self.at_mut(*place).become_by(TaskState::Queued, By::Wake);
        }
        due.len()
    }

    /// Ends a run; `false` when it is final already.
    pub(super) fn cancel(&mut self, run: usize) -> bool {
        if self.runs[run].state.is_final() {
            return false;
        }
        self.runs[run].become_by(RunState::Cancelled, By::Cancel);
        for instance in &mut self.runs[run].tasks {
            if instance.state == TaskState::Running {
                instance.record(Some(TryOutcome::Cancelled));
            }
            if !instance.state.is_final() {
                instance.become_by(TaskState::Cancelled, By::Cancel);
                instance.resumes = false;
            }
        }
        self.follow();
        true
    }

    /// What a clear may take back of what it is about; `None` when it is refused because something chosen is in somebody's
    /// hands.
    pub(super) fn to_clear(
        &self,
        run: usize,
        chosen: &BTreeSet<usize>,
        scope: ClearScope,
    ) -> Option<BTreeSet<usize>> {
        let state = |ordinal: usize| self.at((run, ordinal)).state;
        let is_active = |ordinal: &usize| {
            matches!(
                state(*ordinal),
                TaskState::Queued | TaskState::Running | TaskState::Sleeping
            )
        };
        if chosen.iter().any(is_active) {
            return None;
        }
        let mut reached = chosen.clone();
        if matches!(scope, ClearScope::WithDownstream | ClearScope::WithBoth) {
            reached.extend(self.beyond(chosen, |ordinal| &self.dag.tasks[ordinal].downstream));
        }
        if matches!(scope, ClearScope::WithUpstream | ClearScope::WithBoth) {
            reached.extend(self.beyond(chosen, |ordinal| &self.dag.tasks[ordinal].upstream));
        }
        reached.retain(|ordinal| state(*ordinal).is_final());
        Some(reached)
    }

    /// Takes final task instances back, and their run with them.
    pub(super) fn clear(&mut self, run: usize, cleared: &BTreeSet<usize>) {
        for ordinal in cleared {
            let retries = i32::try_from(self.dag.tasks[*ordinal].retries).unwrap();
            let instance = self.at_mut((run, *ordinal));
            instance.become_by(TaskState::Waiting, By::Clear);
            instance.tries_allowed = instance.tries + 1 + retries;
            instance.lost = 0;
            instance.has_output = false;
        }
        if self.runs[run].state.is_final() {
            self.runs[run].become_by(RunState::Running, By::Clear);
        }
        self.follow();
    }

    /// What can be reached from these by steps in one direction, without them.
    fn beyond<'a>(
        &'a self,
        from: &BTreeSet<usize>,
        neighbours: impl Fn(usize) -> &'a Vec<usize>,
    ) -> BTreeSet<usize> {
        let mut reached = BTreeSet::new();
        let mut next: Vec<usize> = from.iter().copied().collect();
        while let Some(ordinal) = next.pop() {
            for other in neighbours(ordinal) {
                if reached.insert(*other) {
                    next.push(*other);
                }
            }
        }
        reached
    }

    /// A person says how tasks, or a run, ended; returns what changed and what is decided anew, or `None` where there is
    /// nothing to say.
    pub(super) fn mark(
        &mut self,
        run: usize,
        chosen: Option<&BTreeSet<usize>>,
        marked: MarkedAs,
    ) -> Option<(BTreeSet<usize>, BTreeSet<usize>)> {
        let state = self.runs[run].state;
        assert_ne!(state, RunState::Queued);
        if chosen.is_none() && marked == MarkedAs::Failed {
            if state == RunState::Failed {
                return None;
            }
            let mut changed = BTreeSet::new();
            for (ordinal, instance) in self.runs[run].tasks.iter_mut().enumerate() {
                let next = match instance.state {
                    TaskState::Running | TaskState::Sleeping => TaskState::Failed,
                    TaskState::Waiting | TaskState::Queued => TaskState::Skipped,
                    TaskState::Success
                    | TaskState::Failed
                    | TaskState::Skipped
                    | TaskState::UpstreamFailed
                    | TaskState::Cancelled => continue,
                };
                instance.stop(next, By::Mark);
                changed.insert(ordinal);
            }
            self.runs[run].become_by(RunState::Failed, By::Mark);
            self.follow();
            return Some((changed, BTreeSet::new()));
        }
        let everything = (0..self.dag.tasks.len()).collect();
        let chosen = chosen.unwrap_or(&everything);
        let changed: BTreeSet<usize> = chosen
            .iter()
            .copied()
            .filter(|ordinal| self.at((run, *ordinal)).state != marked.state())
            .collect();
        if changed.is_empty() {
            return None;
        }
        for ordinal in &changed {
            self.at_mut((run, *ordinal)).stop(marked.state(), By::Mark);
        }
        let mut anew = self.beyond(&changed, |ordinal| &self.dag.tasks[ordinal].downstream);
        anew.retain(|ordinal| {
            let state = self.at((run, *ordinal)).state;
            !chosen.contains(ordinal)
                && matches!(state, TaskState::Failed | TaskState::UpstreamFailed)
        });
        if state.is_final() {
            self.runs[run].become_by(RunState::Running, By::Mark);
        }
        self.clear(run, &anew);
        Some((changed, anew))
    }

    /// The clock passes every limit there is.
    pub(super) fn time_out(&mut self) {
        if self.dag.timeout.is_some() {
            let due: Vec<usize> = (0..self.runs.len())
                .filter(|run| self.runs[*run].state == RunState::Running)
                .collect();
            for run in due {
                for instance in &mut self.runs[run].tasks {
                    if !instance.state.is_final() {
                        instance.stop(TaskState::Skipped, By::TimeOut);
                    }
                }
                self.runs[run].become_by(RunState::Failed, By::TimeOut);
                self.follow();
            }
        }
        let expired: Vec<Place> = self
            .places()
            .filter(|place| self.is_queued(*place))
            .filter(|place| self.dag.tasks[place.1].queue_timeout.is_some())
            .collect();
        for run in 0..self.runs.len() {
            for place in expired.iter().filter(|place| place.0 == run) {
                self.at_mut(*place)
                    .become_by(TaskState::Failed, By::TimeOut);
                self.at_mut(*place).resumes = false;
            }
            self.follow();
        }
    }

    pub(super) fn set_paused(&mut self, is_paused: bool) {
        self.is_paused = is_paused;
        self.follow();
    }

    /// What follows by itself: verdicts of trigger rules, ends of runs, starts of the next, until nothing changes.
    fn follow(&mut self) {
        loop {
            let mut has_changed = false;
            for run in &mut self.runs {
                has_changed |= promote(&self.dag, run) || close(&self.dag, run);
            }
            has_changed |= self.start_next();
            if !has_changed {
                return;
            }
        }
    }

    fn start_next(&mut self) -> bool {
        let running = self
            .runs
            .iter()
            .filter(|run| run.state == RunState::Running)
            .count();
        let has_room = running < usize::try_from(self.dag.max_active_runs).unwrap();
        let next = self
            .runs
            .iter_mut()
            .find(|run| run.state == RunState::Queued)
            .filter(|_| has_room && !self.is_paused);
        match next {
            Some(run) => {
                run.become_by(RunState::Running, By::Start);
                true
            }
            None => false,
        }
    }
}

impl Instance {
    /// Somebody decides how it ends, whatever it does.
    fn stop(&mut self, next: TaskState, by: By) {
        if self.state == TaskState::Running {
            self.record(Some(TryOutcome::Cancelled));
        }
        self.become_by(next, by);
        self.resumes = false;
    }

    fn record(&mut self, outcome: Option<TryOutcome>) {
        self.history.push(Recorded {
            instance_id: self.instance_id,
            epoch: self.epoch,
            try_number: self.tries,
            worker_id: self.holder.expect("only what runs is recorded"),
            outcome,
        });
    }
}

fn promote(dag: &Dag, run: &mut Run) -> bool {
    if run.state != RunState::Running {
        return false;
    }
    let mut has_changed = false;
    for ordinal in 0..run.tasks.len() {
        if run.tasks[ordinal].state != TaskState::Waiting {
            continue;
        }
        let next = match decide(dag.tasks[ordinal].trigger_rule, &run.upstream(dag, ordinal)) {
            Verdict::Wait { .. } => continue,
            Verdict::Run { .. } => TaskState::Queued,
            Verdict::Skip { .. } => TaskState::Skipped,
            Verdict::UpstreamFailed { .. } => TaskState::UpstreamFailed,
        };
        run.tasks[ordinal].become_by(next, By::Promote);
        has_changed = true;
    }
    has_changed
}

fn close(dag: &Dag, run: &mut Run) -> bool {
    if run.state != RunState::Running || run.unfinished() > 0 {
        return false;
    }
    let states: Vec<TaskState> = run.tasks.iter().map(|task| task.state).collect();
    run.become_by(verdict_of(dag, &states), By::Settle);
    true
}

/// What becomes of a run whose tasks ended so.
pub(super) fn verdict_of(dag: &Dag, states: &[TaskState]) -> RunState {
    let fails = states.iter().zip(&dag.tasks).any(|(state, task)| {
        matches!(state, TaskState::Failed | TaskState::Cancelled) && !task.allow_failure
    });
    if fails {
        RunState::Failed
    } else {
        RunState::Success
    }
}

/// How tasks and their run end when each is looked at once, after all above it: no interleaving, no retries, no store.
pub(super) fn ends(dag: &Dag, outcome: impl Fn(usize) -> TaskState) -> (Vec<TaskState>, RunState) {
    let mut states: Vec<TaskState> = Vec::new();
    for (ordinal, task) in dag.tasks.iter().enumerate() {
        let upstream = count(dag, ordinal, |above| states[above]);
        states.push(match decide(task.trigger_rule, &upstream) {
            Verdict::Wait { .. } => unreachable!("everything above is final"),
            Verdict::Run { .. } => outcome(ordinal),
            Verdict::Skip { .. } => TaskState::Skipped,
            Verdict::UpstreamFailed { .. } => TaskState::UpstreamFailed,
        });
    }
    let run = verdict_of(dag, &states);
    (states, run)
}

fn outcome(class: FailureClass) -> TryOutcome {
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
