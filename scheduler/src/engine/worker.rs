//! The worker: claims, runs, settles. One loop owns its slots; a transaction settles what has ended and claims for the free
//! slots. Under load a second one goes on beside it. Nothing is claimed before the look was armed.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use pinwheel_tasks::{Failure, FailureClass};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Options,
    bell::Bell,
    execute::{Executor, Stop, Why},
    heartbeat::{Lease, Running},
    outage::{Outage, Pauses, Question},
};
use crate::{
    metrics,
    model::{InstanceId, WorkerId},
    store::{self, Appetite, Claimed, Effects, Ended, Ending, Settled, Store, Taken},
};

/// More is slower per task: larger batches wait for each other's rows.
const LARGEST_BATCH: usize = 100;

/// So many transactions at once: while Postgres works at one, this process prepares the other.
const MOST_FLIGHTS: usize = 2;
/// A second transaction beside the first must have so much to settle; less is better gathered.
const WORTH_A_SECOND: usize = 32;

/// What may be claimed is in another process's hands right now: look again after this.
const CONTENDED: Duration = Duration::from_millis(5);

/// The signals of a graceful stop, in this order.
#[derive(Debug, Clone, Default)]
pub(super) struct Stopping {
    /// Claim nothing more.
    pub(super) begins: CancellationToken,
    /// Hand back what still runs.
    pub(super) grace_is_over: CancellationToken,
    /// Do not wait for a kind that takes its time to stop.
    pub(super) at_once: CancellationToken,
}

pub(super) struct Worker {
    pub(super) store: Store,
    pub(super) bell: Bell,
    pub(super) outage: Outage,
    pub(super) options: Options,
    pub(super) executor: Executor,
    pub(super) lease: watch::Receiver<Lease>,
    pub(super) running: Running,
    pub(super) taken_away: mpsc::UnboundedReceiver<(InstanceId, i32)>,
    pub(super) stopping: Stopping,
}

/// A transaction that has landed: what it was, and how many slots were kept free for what it claims.
struct Flown {
    reserved: usize,
    question: Question,
    answer: Answer,
}

enum Answer {
    Settled {
        batch: Vec<Ended>,
        /// Something may have been claimable when it took off.
        look: bool,
        settled: Result<Settled, store::Error>,
    },
    Claimed(Result<Taken, store::Error>),
    Held(WorkerId, Result<Vec<Claimed>, store::Error>),
}

/// What the loop remembers.
struct State {
    /// How to stop what runs, by task instance and claim.
    stops: HashMap<InstanceId, (i32, Stop)>,
    /// Ended, not settled.
    ended: VecDeque<Ended>,
    /// Ended, and Postgres refuses to settle them: tried again with the next heartbeat.
    set_aside: Vec<Ended>,
    /// Slots kept free for what transactions on their way claim.
    reserved: usize,
    /// Something may be claimable.
    look: bool,
    /// When to look again although nobody rings.
    look_at: Option<Instant>,
    /// An answer was lost: this worker may hold what it does not know of.
    in_doubt: bool,
    /// What this worker holds is being read. Nothing else may be on its way: what is being settled would look unknown.
    is_asking: bool,
    pauses: Pauses,
    /// No transaction before this, after a failure.
    not_before: Option<Instant>,
}

impl Worker {
    /// Runs until a graceful stop is complete: everything has ended or was handed back.
    pub(super) async fn work(mut self) {
        let (tell, mut told) = mpsc::unbounded_channel::<Ended>();
        let mut work = self.bell.on_work();
        let mut state = State {
            stops: HashMap::new(),
            ended: VecDeque::new(),
            set_aside: Vec::new(),
            reserved: 0,
            look: true,
            look_at: None,
            in_doubt: false,
            is_asking: false,
            pauses: Pauses::default(),
            not_before: None,
        };
        let mut flights: FuturesUnordered<BoxFuture<'static, Flown>> = FuturesUnordered::new();
        loop {
            let stopping = self.stopping.begins.is_cancelled();
            while flights.len() < MOST_FLIGHTS
                && state.not_before.is_none_or(|at| at <= Instant::now())
            {
                if state.look && !stopping {
                    // Arm before the look: a ring during the transaction counts for the next one.
                    work.arm();
                }
                match self.next_flight(&mut state, stopping, flights.len()) {
                    Some(flight) => flights.push(flight),
                    None => break,
                }
            }
            let is_settled = state.ended.is_empty() && state.set_aside.is_empty();
            if stopping && flights.is_empty() && state.stops.is_empty() && is_settled {
                return;
            }
            metrics::RUNNING.set(i64::try_from(state.stops.len()).unwrap_or(i64::MAX));
            let lease = *self.lease.borrow_and_update();
            // Also when the moment passed while this process was stopped, or busy elsewhere.
            if !lease.is_trusted() && !all_stopped(&state) {
                tracing::warn!("this worker could not renew its lease; stopping its tasks");
                stop_all(&state, Why::LeaseInDoubt);
            }
            tokio::select! {
                biased;
                () = self.stopping.begins.cancelled(), if !stopping => {}
                () = self.stopping.grace_is_over.cancelled(), if stopping && !state.stops.is_empty() && !all_stopped(&state) => {
                    stop_all(&state, Why::Shutdown);
                }
                Some(flown) = flights.next(), if !flights.is_empty() => {
                    self.land(flown, &mut state, &tell);
                }
                Some(ended) = told.recv() => {
                    self.take_ended(ended, &mut state);
                    while let Ok(ended) = told.try_recv() {
                        self.take_ended(ended, &mut state);
                    }
                }
                Some((instance, epoch)) = self.taken_away.recv() => {
                    if let Some((running, stop)) = state.stops.get(&instance) && *running == epoch {
                        tracing::info!(instance_id = instance.0, "a running task is not this worker's any more; stopping it");
                        stop.stop(Why::NotOurs);
                    }
                }
                Ok(()) = self.lease.changed() => {
                    state.ended.extend(state.set_aside.drain(..));
                    if self.lease.borrow().worker_id != lease.worker_id {
                        // A new lease: everything under the old one belongs to others.
                        stop_all(&state, Why::LeaseInDoubt);
                        state.look = true;
                    }
                }
                () = tokio::time::sleep_until(lease.trusted_until), if lease.is_trusted() => {}
                () = work.rung(), if !state.look && !stopping => state.look = true,
                () = sleep_until(state.look_at), if state.look_at.is_some() => {
                    state.look_at = None;
                    state.look = true;
                }
                () = sleep_until(state.not_before), if state.not_before.is_some() => {
                    state.not_before = None;
                }
            }
        }
    }

    /// The next transaction, if there is a reason for one beside those that are on their way.
    fn next_flight(
        &self,
        state: &mut State,
        stopping: bool,
        on_their_way: usize,
    ) -> Option<BoxFuture<'static, Flown>> {
        if state.is_asking {
            return None;
        }
        let lease = *self.lease.borrow();
        let trusted = lease.is_trusted();
        let free = if stopping || !trusted {
            0
        } else {
            let taken = state.stops.len() + state.reserved;
            self.options.slots.saturating_sub(taken)
        };
        let store = self.store.clone();
        let queues = Arc::new(self.options.queues.clone());
        let worker_id = lease.worker_id;
        let question = self.outage.asking();
        let least = if on_their_way == 0 { 1 } else { WORTH_A_SECOND };
        if state.ended.len() >= least {
            let batch: Vec<Ended> = state
                .ended
                .drain(..state.ended.len().min(LARGEST_BATCH))
                .collect();
            // What is left to settle needs slots of its own.
            let reserved = if state.ended.is_empty() {
                free
            } else {
                free.min(batch.len())
            };
            let look = state.look;
            if reserved > 0 {
                state.look = false;
            }
            state.reserved += reserved;
            metrics::SETTLE_BATCH.observe(batch.len() as f64);
            return Some(
                async move {
                    let _timer = metrics::SETTLE_SECONDS.start_timer();
                    let appetite = Appetite {
                        worker_id,
                        queues: &queues,
                        slots: reserved,
                    };
                    let settled = settle_all(&store, &batch, appetite).await;
                    Flown {
                        reserved,
                        question,
                        answer: Answer::Settled {
                            batch,
                            look,
                            settled,
                        },
                    }
                }
                .boxed(),
            );
        }
        if on_their_way > 0 {
            return None;
        }
        if state.in_doubt && trusted {
            state.is_asking = true;
            return Some(
                async move {
                    Flown {
                        reserved: 0,
                        question,
                        answer: Answer::Held(worker_id, store.held_by(worker_id).await),
                    }
                }
                .boxed(),
            );
        }
        if state.look && free > 0 {
            state.look = false;
            state.reserved += free;
            return Some(
                async move {
                    let _timer = metrics::CLAIM_SECONDS.start_timer();
                    let appetite = Appetite {
                        worker_id,
                        queues: &queues,
                        slots: free,
                    };
                    Flown {
                        reserved: free,
                        question,
                        answer: Answer::Claimed(store.claim(appetite).await),
                    }
                }
                .boxed(),
            );
        }
        None
    }

    fn land(&mut self, flown: Flown, state: &mut State, tell: &mpsc::UnboundedSender<Ended>) {
        state.reserved -= flown.reserved;
        // Nothing else was on its way beside it.
        state.is_asking = false;
        let question = flown.question;
        match flown.answer {
            Answer::Settled {
                batch,
                look,
                settled: Ok(settled),
            } => {
                Self::answered(question, state);
                state.look |= look && !settled.looked;
                count(&batch, &settled);
                for instance in &settled.refused {
                    tracing::info!(
                        instance_id = instance.0,
                        "a late result was refused: the task is not this worker's any more"
                    );
                }
                for (run_id, run_state) in &settled.closed {
                    tracing::info!(run_id = run_id.0, state = run_state.as_str(), "run closed");
                }
                self.bell.ring_for(settled.effects);
                state.set_aside.extend(
                    batch
                        .into_iter()
                        .filter(|ended| settled.unsettled.contains(&ended.execution.instance_id)),
                );
                self.take_over(settled.taken, state, tell);
            }
            Answer::Claimed(Ok(taken)) => {
                Self::answered(question, state);
                if !taken.claimed.is_empty() {
                    self.bell.ring_for(Effects::default());
                }
                self.take_over(taken, state, tell);
            }
            Answer::Held(worker_id, Ok(claimed)) => {
                Self::answered(question, state);
                state.in_doubt = false;
                if worker_id == self.lease.borrow().worker_id {
                    let unknown = claimed
                        .into_iter()
                        .filter(|one| {
                            let instance = one.execution.instance_id;
                            !state.stops.contains_key(&instance)
                                && state
                                    .set_aside
                                    .iter()
                                    .all(|ended| ended.execution.instance_id != instance)
                                && !state
                                    .ended
                                    .iter()
                                    .any(|ended| ended.execution.instance_id == instance)
                        })
                        .collect();
                    self.begin_all(unknown, state, tell);
                }
                state.look = true;
            }
            Answer::Settled {
                batch,
                look: _,
                settled: Err(error),
            } => {
                for ended in batch.into_iter().rev() {
                    state.ended.push_front(ended);
                }
                Self::failed(question, &error, state);
            }
            Answer::Claimed(Err(error)) | Answer::Held(_, Err(error)) => {
                Self::failed(question, &error, state);
            }
        }
    }

    fn take_over(&self, taken: Taken, state: &mut State, tell: &mpsc::UnboundedSender<Ended>) {
        state.look |= taken.look_again;
        if taken.contended {
            state.look_at = Some(Instant::now() + CONTENDED);
        }
        self.begin_all(taken.claimed, state, tell);
    }

    fn answered(question: Question, state: &mut State) {
        question.answered();
        state.pauses.reset();
        state.not_before = None;
    }

    fn failed(question: Question, error: &store::Error, state: &mut State) {
        metrics::STORE_ERRORS.inc();
        if error.is_unavailable() {
            question.failed(error);
        } else {
            tracing::error!(%error, "Postgres refused a step of this worker; it is tried again");
        }
        state.in_doubt = true;
        state.look = true;
        state.not_before = Some(Instant::now() + state.pauses.next());
    }

    fn begin_all(
        &self,
        claimed: Vec<Claimed>,
        state: &mut State,
        tell: &mpsc::UnboundedSender<Ended>,
    ) {
        metrics::CLAIMED.inc_by(claimed.len() as u64);
        let lease = *self.lease.borrow();
        for one in claimed {
            // The answer came late. What was claimed under a lease that is over belongs to others; one in doubt may be over
            // any moment.
            if one.execution.worker_id != lease.worker_id || !lease.is_trusted() {
                state.ended.push_back(Ended::untouched(one.execution));
                continue;
            }
            let stop = Stop::default();
            let (instance, epoch) = (one.execution.instance_id, one.execution.epoch);
            self.running.insert(instance, epoch);
            state.stops.insert(instance, (epoch, stop.clone()));
            let executor = self.executor.clone();
            let tell = tell.clone();
            tokio::spawn(async move {
                let ended = executor.execute(one, stop).await;
                // The loop ends only when nothing runs.
                let _loop_is_gone = tell.send(ended);
            });
        }
    }

    fn take_ended(&self, mut ended: Ended, state: &mut State) {
        let instance = ended.execution.instance_id;
        // The warden ends what runs under a lease that it cannot trust: that is no fault of the task.
        if matches!(ended.ending, Ending::Failed(_))
            && let Some(span) = ended.span
            && self
                .lease
                .borrow()
                .was_doubted_since(Instant::from_std(span.began))
        {
            ended.ending = Ending::GivenBack;
        }
        state.stops.remove(&instance);
        self.running.remove(instance);
        state.ended.push_back(ended);
    }
}

/// Settles a batch; one whose presence Postgres refuses does not keep the others from being settled.
async fn settle_all(
    store: &Store,
    batch: &[Ended],
    appetite: Appetite<'_>,
) -> Result<Settled, store::Error> {
    let error = match store.settle_and_claim(batch, appetite).await {
        Err(error) if !error.is_unavailable() => error,
        answered => return answered,
    };
    let [only] = batch else {
        let (first, second) = batch.split_at(batch.len() / 2);
        // Whatever becomes of one half, the other is settled.
        let mut settled = Box::pin(settle_all(
            store,
            first,
            Appetite {
                slots: 0,
                ..appetite
            },
        ))
        .await?;
        let rest = Box::pin(settle_all(store, second, appetite)).await?;
        settled.refused.extend(rest.refused);
        settled.unsettled.extend(rest.unsettled);
        settled.taken = rest.taken;
        settled.closed.extend(rest.closed);
        settled.effects = settled.effects.and(rest.effects);
        return Ok(settled);
    };
    tracing::error!(%error, instance_id = only.execution.instance_id.0, "a result cannot be stored; recording a failure in its place");
    let failure = Failure {
        class: FailureClass::Permanent,
        message: format!("its result cannot be stored: {error}"),
        hint: None,
        exit_code: None,
    };
    match store.settle_unstorable(only, &failure).await {
        Err(error) if !error.is_unavailable() => {
            tracing::error!(%error, instance_id = only.execution.instance_id.0, "nor can the failure; it is tried again, and the others go on");
            Ok(Settled::nothing_of(only.execution.instance_id))
        }
        answered => answered,
    }
}

fn stop_all(state: &State, why: Why) {
    for (_, stop) in state.stops.values() {
        stop.stop(why);
    }
}

fn all_stopped(state: &State) -> bool {
    state.stops.values().all(|(_, stop)| stop.is_stopped())
}

fn count(batch: &[Ended], settled: &Settled) {
    metrics::REFUSED.inc_by(settled.refused.len() as u64);
    for ended in batch {
        let outcome = match &ended.ending {
            Ending::Success { .. } => "success",
            Ending::Skipped { .. } => "skipped",
            Ending::Sleep { .. } => "sleep",
            Ending::Failed(failure) => match failure.class {
                FailureClass::Timeout => "timeout",
                FailureClass::Panic => "panic",
                FailureClass::Retryable
                | FailureClass::Permanent
                | FailureClass::Killed
                | FailureClass::Lost
                | FailureClass::Cancelled => "failed",
            },
            Ending::GivenBack => "given_back",
            Ending::Expanded { .. } => "expanded",
        };
        metrics::SETTLED.with_label_values(&[outcome]).inc();
    }
    for (_, state) in &settled.closed {
        metrics::RUNS_CLOSED
            .with_label_values(&[state.as_str()])
            .inc();
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
