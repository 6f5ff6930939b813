//! Where the instances of a local run stand, and what follows: pure.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Map, Value, json};

use super::{Items, Report};
use crate::{
    model::{
        Dag, InstanceId, RunState, TaskState,
        flow::{self, Sight, Sights},
        retry::{self, Decision, Failed, Tries},
        template,
        trigger_rule::{Upstream, Verdict},
    },
    store::Ending,
};

/// One instance of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) ordinal: usize,
    /// Its number among all instances.
    pub(super) instance: usize,
}

struct Instance {
    ordinal: usize,
    item: Option<(Value, i32)>,
    name: Option<String>,
    state: TaskState,
    tries: i32,
    output: Option<Value>,
    reason: Option<String>,
}

/// What became of the instances of one task.
#[derive(Clone, Copy, Default)]
struct Tally {
    pending: u32,
    ok: u32,
    failed: u32,
    upstream_failed: u32,
    skipped: u32,
}

impl Tally {
    fn of(&mut self, state: TaskState) -> &mut u32 {
        match state {
            TaskState::Waiting | TaskState::Queued | TaskState::Running | TaskState::Sleeping => {
                &mut self.pending
            }
            TaskState::Success => &mut self.ok,
            TaskState::Failed | TaskState::Cancelled => &mut self.failed,
            TaskState::UpstreamFailed => &mut self.upstream_failed,
            TaskState::Skipped => &mut self.skipped,
        }
    }
}

pub(super) struct Plan<'a> {
    dag: &'a Dag,
    instances: Vec<Instance>,
    tallies: Vec<Tally>,
    ready: VecDeque<usize>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(dag: &'a Dag) -> Self {
        let instances = (0..dag.tasks.len())
            .map(|ordinal| Instance {
                ordinal,
                item: None,
                name: None,
                state: TaskState::Waiting,
                tries: 0,
                output: None,
                reason: None,
            })
            .collect();
        let one = Tally {
            pending: 1,
            ..Tally::default()
        };
        Self {
            dag,
            instances,
            tallies: vec![one; dag.tasks.len()],
            ready: VecDeque::new(),
        }
    }

    /// Decides everything that can be decided; returns what became final by it.
    pub(super) fn decide(&mut self) -> Vec<(Place, TaskState, String)> {
        let mut made_final = Vec::new();
        // In topological order, so that one pass carries everything down.
        for ordinal in 0..self.dag.tasks.len() {
            if self.instances[ordinal].state != TaskState::Waiting {
                continue;
            }
            let sights: Sights = self
                .dag
                .looks_at(ordinal)
                .into_iter()
                .map(|seen| (seen, self.sight(seen)))
                .collect();
            let (state, reason) =
                match flow::decide(self.dag, ordinal, &self.upstream(ordinal), &sights) {
                    Verdict::Wait { .. } => continue,
                    Verdict::Run { reason } => (TaskState::Queued, reason),
                    Verdict::Skip { reason } => (TaskState::Skipped, reason),
                    Verdict::UpstreamFailed { reason } => (TaskState::UpstreamFailed, reason),
                };
            self.become_state(ordinal, state);
            if state == TaskState::Queued {
                self.ready.push_back(ordinal);
                continue;
            }
            self.instances[ordinal].reason = Some(reason.clone());
            let place = Place {
                ordinal,
                instance: ordinal,
            };
            made_final.push((place, state, reason));
        }
        made_final
    }

    /// The next instance to run.
    pub(super) fn take(&mut self) -> Option<Place> {
        let instance = self.ready.pop_front()?;
        self.become_state(instance, TaskState::Running);
        self.instances[instance].tries += 1;
        Some(Place {
            ordinal: self.instances[instance].ordinal,
            instance,
        })
    }

    pub(super) fn tries(&self, place: Place) -> i32 {
        self.instances[place.instance].tries
    }

    pub(super) fn item(&self, place: Place) -> Option<(Value, i32)> {
        self.instances[place.instance].item.clone()
    }

    /// What people call it: the item by its name, if it has one.
    pub(super) fn called(&self, place: Place) -> String {
        let instance = &self.instances[place.instance];
        let id = &self.dag.tasks[place.ordinal].id;
        match (&instance.name, &instance.item) {
            (Some(name), _) => format!("{id}[{name}]"),
            (None, Some((_, index))) => format!("{id}[{index}]"),
            (None, None) => id.to_string(),
        }
    }

    /// What those finished tasks answered that the templates of a task read.
    pub(super) fn outputs(&self, place: Place) -> BTreeMap<String, Value> {
        let task = &self.dag.tasks[place.ordinal];
        let mut texts = task.with.clone();
        texts.extend(
            task.flow
                .when
                .iter()
                .map(|when| ("when".to_owned(), json!(when))),
        );
        texts.extend(
            task.flow
                .foreach
                .iter()
                .map(|foreach| ("foreach".to_owned(), foreach.list.clone())),
        );
        let read = template::tasks_read(&texts);
        let mut outputs: BTreeMap<String, Value> = BTreeMap::new();
        if read.is_empty() {
            return outputs;
        }
        for instance in &self.instances {
            let id = self.dag.tasks[instance.ordinal].id.to_string();
            if !read.contains(&id) {
                continue;
            }
            let Some(output) = &instance.output else {
                continue;
            };
            match (&instance.item, outputs.get_mut(&id)) {
                (Some(_), Some(Value::Array(items))) => items.push(output.clone()),
                (Some(_), _) => {
                    outputs.insert(id, Value::Array(vec![output.clone()]));
                }
                (None, _) => {
                    outputs.insert(id, output.clone());
                }
            }
        }
        outputs
    }

    /// Notes how an execution ended; says the state if it is final.
    pub(super) fn end(
        &mut self,
        place: Place,
        try_number: i32,
        ending: Ending,
    ) -> Option<(TaskState, Option<String>)> {
        let (state, reason) = match ending {
            Ending::Success { output } => {
                self.instances[place.instance].output = Some(output);
                (TaskState::Success, None)
            }
            Ending::Skipped { reason } => (TaskState::Skipped, Some(reason)),
            Ending::Failed(failure) => {
                let task = &self.dag.tasks[place.ordinal];
                let failed = Failed {
                    class: failure.class,
                    exit_code: failure.exit_code,
                };
                let tries = Tries {
                    instance_id: InstanceId(0),
                    begun: u32::try_from(try_number).unwrap_or(u32::MAX),
                    allowed: task.retries.saturating_add(1),
                    lost: 0,
                };
                match retry::decide(task, failed, tries) {
                    Decision::Retry { .. } | Decision::Again => {
                        self.become_state(place.instance, TaskState::Queued);
                        self.ready.push_back(place.instance);
                        return None;
                    }
                    Decision::Fail { .. } => (TaskState::Failed, Some(failure.message)),
                }
            }
            Ending::Expanded { items } => {
                self.expand(place, items);
                return None;
            }
            // Nothing sleeps or is handed back here.
            Ending::Sleep { reason, .. } => (TaskState::Failed, Some(reason)),
            Ending::GivenBack => (TaskState::Failed, None),
        };
        self.become_state(place.instance, state);
        self.instances[place.instance].reason.clone_from(&reason);
        Some((state, reason))
    }

    fn expand(&mut self, place: Place, items: Items) {
        for (one, index) in items.into_iter().zip(0..) {
            let instance = if index == 0 {
                self.become_state(place.instance, TaskState::Queued);
                self.instances[place.instance].tries = 0;
                place.instance
            } else {
                self.tallies[place.ordinal].pending += 1;
                self.instances.push(Instance {
                    ordinal: place.ordinal,
                    item: None,
                    name: None,
                    state: TaskState::Queued,
                    tries: 0,
                    output: None,
                    reason: None,
                });
                self.instances.len() - 1
            };
            self.instances[instance].item = Some((one.item, index));
            self.instances[instance].name = one.name;
            self.ready.push_back(instance);
        }
    }

    fn become_state(&mut self, instance: usize, state: TaskState) {
        let one = &mut self.instances[instance];
        let tally = &mut self.tallies[one.ordinal];
        *tally.of(one.state) -= 1;
        *tally.of(state) += 1;
        one.state = state;
    }

    fn upstream(&self, ordinal: usize) -> Upstream {
        let mut upstream = Upstream::default();
        for above in &self.dag.tasks[ordinal].upstream {
            let tally = &self.tallies[*above];
            upstream.pending += tally.pending;
            upstream.ok += tally.ok;
            upstream.failed += tally.failed;
            upstream.upstream_failed += tally.upstream_failed;
            upstream.skipped += tally.skipped;
        }
        upstream.total = upstream.pending
            + upstream.ok
            + upstream.failed
            + upstream.upstream_failed
            + upstream.skipped;
        upstream
    }

    fn sight(&self, ordinal: usize) -> Sight {
        let tally = self.tallies[ordinal];
        Sight {
            pending: tally.pending,
            ok: tally.ok,
            failed: tally.failed + tally.upstream_failed,
            skipped: tally.skipped,
            chosen: self
                .instances
                .iter()
                .filter(|one| one.ordinal == ordinal)
                .filter_map(|one| one.output.as_ref()?.get("chosen")?.as_array())
                .flatten()
                .filter_map(|id| Some(id.as_str()?.to_owned()))
                .collect(),
        }
    }

    /// What became of everything.
    pub(super) fn report(&self) -> Report {
        let mut report = Report {
            state: RunState::Success,
            tasks: Map::new(),
            items: Map::new(),
            reasons: Map::new(),
        };
        for (ordinal, task) in self.dag.tasks.iter().enumerate() {
            let own = || self.instances.iter().filter(|one| one.ordinal == ordinal);
            let state = worst(own().map(|one| one.state));
            report.tasks.insert(task.id.to_string(), json!(state));
            if own().any(|one| one.item.is_some()) {
                let items: Vec<TaskState> = own().map(|one| one.state).collect();
                report.items.insert(task.id.to_string(), json!(items));
            }
            if let Some(reason) =
                own().find_map(|one| one.reason.clone().filter(|_| one.state == state))
            {
                report.reasons.insert(task.id.to_string(), json!(reason));
            }
            let fails_run = own().any(|one| one.state == TaskState::Failed) && !task.allow_failure;
            if fails_run || !state.is_final() {
                report.state = RunState::Failed;
            }
        }
        report
    }
}

/// The state that stands for several instances.
pub(crate) fn worst(states: impl Iterator<Item = TaskState>) -> TaskState {
    const ORDER: [TaskState; 9] = [
        TaskState::Failed,
        TaskState::UpstreamFailed,
        TaskState::Cancelled,
        TaskState::Running,
        TaskState::Sleeping,
        TaskState::Queued,
        TaskState::Waiting,
        TaskState::Success,
        TaskState::Skipped,
    ];
    let rank = |state: &TaskState| ORDER.iter().position(|one| one == state);
    states.min_by_key(rank).unwrap_or(TaskState::Waiting)
}
