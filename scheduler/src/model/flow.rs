//! Whether a task runs, given everything above it: branches, setups and teardowns, and then its trigger rule.
//!
//! Counters of what became of the tasks directly upstream decide nearly always. A few tasks depend on more: on what a branch
//! chose, and on setups that are not directly above. Who decides fetches that for those alone ([`Dag::looks_at`]).
//!
//! Airflow's meaning, but for one thing: a verdict never depends on which of two upstream tasks finished first. So a task
//! below a branch waits for the branch, and a task in the scope of a setup waits for the setup, whatever its rule says.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Dag, Task, TaskState,
    trigger_rule::{self, Upstream, Verdict},
};

/// The kind of task that chooses among the tasks directly downstream of it.
pub const BRANCH: &str = "branch";

/// What became of one task: how many of its instances ended how, and what it chose if it is a branch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sight {
    /// Instances that are not final.
    pub pending: u32,
    /// Those that succeeded.
    pub ok: u32,
    /// Those that failed, were cancelled, or that something above failed.
    pub failed: u32,
    /// Those that were skipped.
    pub skipped: u32,
    /// The ids that a branch chose.
    pub chosen: Vec<String>,
}

impl Sight {
    /// Counts one instance.
    pub fn count(&mut self, state: TaskState) {
        match state {
            TaskState::Waiting | TaskState::Queued | TaskState::Running | TaskState::Sleeping => {
                self.pending += 1;
            }
            TaskState::Success => self.ok += 1,
            TaskState::Failed | TaskState::UpstreamFailed | TaskState::Cancelled => {
                self.failed += 1;
            }
            TaskState::Skipped => self.skipped += 1,
        }
    }
}

/// What a decision looks at besides counters, by ordinal.
pub type Sights = BTreeMap<usize, Sight>;

impl Dag {
    /// What templates see as the events of a run that none of them made: no event of each dataset that the DAG waits for.
    pub fn no_updates(&self) -> BTreeMap<String, Vec<serde_json::Value>> {
        self.datasets
            .iter()
            .flat_map(|awaited| awaited.names())
            .map(|name| (name.to_string(), Vec::new()))
            .collect()
    }

    /// The tasks that have to be looked at to decide about a task, besides its counters.
    pub fn looks_at(&self, ordinal: usize) -> BTreeSet<usize> {
        let task = &self.tasks[ordinal];
        self.branches_above(task)
            .chain(task.flow.setups.iter().copied())
            .collect()
    }

    /// The tasks that look at a setup without being directly downstream of it: its end moves none of their counters.
    pub fn watchers(&self, setup: usize) -> impl Iterator<Item = usize> + '_ {
        let below = &self.tasks[setup].downstream;
        self.tasks
            .iter()
            .enumerate()
            .filter(move |(ordinal, task)| {
                task.flow.setups.contains(&setup) && !below.contains(ordinal)
            })
            .map(|(ordinal, _)| ordinal)
    }

    /// Whether counters alone decide about a task.
    pub fn counts_alone(&self, task: &Task) -> bool {
        task.flow.setups.is_empty()
            && !task.flow.teardown
            && self.branches_above(task).next().is_none()
    }

    fn branches_above<'a>(&'a self, task: &'a Task) -> impl Iterator<Item = usize> + 'a {
        task.upstream
            .iter()
            .copied()
            .filter(|above| self.tasks[*above].kind == BRANCH)
    }

    /// Whether a task lies downstream of one of these, or is one of them.
    fn is_below_one_of(&self, ordinal: usize, ids: &[String]) -> bool {
        let mut reached: BTreeSet<usize> =
            ids.iter().filter_map(|id| Some(self.task(id)?.0)).collect();
        // Ordinals are a topological order, so one pass reaches everything below.
        while let Some(first) = reached.pop_first() {
            if first == ordinal {
                return true;
            }
            reached.extend(
                self.tasks[first]
                    .downstream
                    .iter()
                    .filter(|below| **below <= ordinal),
            );
        }
        false
    }

    /// Checks what a branch answered: the ids that it chose, or which of them is not directly downstream of it.
    ///
    /// # Errors
    /// The id that cannot be chosen.
    pub fn check_choice(&self, branch: &Task, chosen: &[String]) -> Result<(), String> {
        let is_below = |id: &String| {
            branch
                .downstream
                .iter()
                .any(|below| self.tasks[*below].id.as_str() == id)
        };
        match chosen.iter().find(|id| !is_below(id)) {
            Some(id) => Err(id.clone()),
            None => Ok(()),
        }
    }

    /// What has to be cleared with these tasks: the setups that prepare for them and the teardowns of those.
    pub fn with_setups_and_teardowns(&self, mut ordinals: BTreeSet<usize>) -> BTreeSet<usize> {
        let setups: BTreeSet<usize> = ordinals
            .iter()
            .flat_map(|ordinal| self.tasks[*ordinal].flow.setups.iter().copied())
            .chain(
                ordinals
                    .iter()
                    .copied()
                    .filter(|one| self.tasks[*one].flow.setup),
            )
            .collect();
        ordinals.extend(setups.iter().copied());
        for (ordinal, task) in self.tasks.iter().enumerate() {
            if task.flow.teardown && task.flow.setups.iter().any(|setup| setups.contains(setup)) {
                ordinals.insert(ordinal);
            }
        }
        ordinals
    }
}

/// Decides about a waiting task, given the counters of the tasks directly above and a look at [`Dag::looks_at`].
pub fn decide(dag: &Dag, ordinal: usize, upstream: &Upstream, sights: &Sights) -> Verdict {
    let task = &dag.tasks[ordinal];
    if dag.counts_alone(task) {
        return trigger_rule::decide(task.trigger_rule, upstream);
    }
    let nothing = Sight::default();
    let seen = |ordinal: usize| sights.get(&ordinal).unwrap_or(&nothing);
    let id = |ordinal: usize| &dag.tasks[ordinal].id;
    let wait = |reason: String| Verdict::Wait { reason };
    for branch in dag.branches_above(task) {
        let branch_ended = seen(branch);
        if branch_ended.pending > 0 {
            return wait(format!("waiting for the branch `{}`", id(branch)));
        }
        if branch_ended.ok > 0 && !dag.is_below_one_of(ordinal, &branch_ended.chosen) {
            return Verdict::Skip {
                reason: format!("the branch `{}` did not choose it", id(branch)),
            };
        }
    }
    if task.flow.teardown {
        return decide_teardown(task, upstream, seen, id);
    }
    if let Some(open) = task
        .flow
        .setups
        .iter()
        .find(|setup| seen(**setup).pending > 0)
    {
        return wait(format!("waiting for the setup `{}`", id(*open)));
    }
    if let Some(failed) = task
        .flow
        .setups
        .iter()
        .find(|setup| seen(**setup).failed > 0)
    {
        return Verdict::UpstreamFailed {
            reason: format!("the setup `{}` failed", id(*failed)),
        };
    }
    if let Some(skipped) = task
        .flow
        .setups
        .iter()
        .find(|setup| seen(**setup).skipped > 0)
    {
        return Verdict::Skip {
            reason: format!("the setup `{}` was skipped", id(*skipped)),
        };
    }
    trigger_rule::decide(task.trigger_rule, upstream)
}

/// A teardown runs when what is between is done, whatever came of it, if there is something to tear down.
fn decide_teardown<'a>(
    task: &Task,
    upstream: &Upstream,
    seen: impl Fn(usize) -> &'a Sight,
    id: impl Fn(usize) -> &'a super::TaskId,
) -> Verdict {
    if upstream.pending > 0 {
        return trigger_rule::decide(super::TriggerRule::AllDone, upstream);
    }
    let mut skipped = true;
    for setup in task.flow.setups.iter().copied() {
        let ended = seen(setup);
        if ended.pending > 0 {
            return Verdict::Wait {
                reason: format!("waiting for the setup `{}`", id(setup)),
            };
        }
        if ended.ok > 0 {
            return Verdict::Run {
                reason: format!("the setup `{}` succeeded and its work is done", id(setup)),
            };
        }
        skipped &= ended.failed == 0;
    }
    match task.flow.setups.first() {
        None => Verdict::Run {
            reason: "the work above it is done".to_owned(),
        },
        Some(setup) if skipped => Verdict::Skip {
            reason: format!("the setup `{}` was skipped", id(*setup)),
        },
        Some(setup) => Verdict::UpstreamFailed {
            reason: format!("the setup `{}` failed", id(*setup)),
        },
    }
}

/// The setups of every task, as [`super::Flow::setups`] holds them: `is_setup` and `is_teardown` and the edges are what the file
/// says. For a teardown these are the setups that it tears down: those directly above it, or else the nearest above. For any
/// other task they are the setups whose scope it is in: it lies between the setup and one of its teardowns, or below a
/// setup that has none.
pub(crate) fn setups(tasks: &[Shape]) -> Vec<Vec<usize>> {
    let above = closure(tasks, |task| &task.upstream);
    let mut below: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); tasks.len()];
    for (ordinal, ancestors) in above.iter().enumerate() {
        for ancestor in ancestors {
            below[*ancestor].insert(ordinal);
        }
    }
    let mut setups: Vec<Vec<usize>> = vec![Vec::new(); tasks.len()];
    if tasks.iter().all(|task| !task.setup && !task.teardown) {
        return setups;
    }
    for (ordinal, task) in tasks.iter().enumerate().filter(|(_, task)| task.teardown) {
        let direct: Vec<usize> = task
            .upstream
            .iter()
            .copied()
            .filter(|above| tasks[*above].setup)
            .collect();
        setups[ordinal] = if direct.is_empty() {
            let all = || {
                above[ordinal]
                    .iter()
                    .copied()
                    .filter(|one| tasks[*one].setup)
            };
            all()
                .filter(|one| !all().any(|other| below[*one].contains(&other)))
                .collect()
        } else {
            direct
        };
    }
    let teardowns_of = |setup: usize| {
        tasks
            .iter()
            .enumerate()
            .filter(|(_, task)| task.teardown)
            .map(|(ordinal, _)| ordinal)
            .filter(|teardown| setups[*teardown].contains(&setup))
            .collect::<Vec<_>>()
    };
    let scopes: BTreeMap<usize, Vec<usize>> = (0..tasks.len())
        .filter(|ordinal| tasks[*ordinal].setup)
        .map(|setup| (setup, teardowns_of(setup)))
        .collect();
    for ordinal in (0..tasks.len()).filter(|ordinal| !tasks[*ordinal].teardown) {
        setups[ordinal] = above[ordinal]
            .iter()
            .copied()
            .filter(|above| {
                scopes.get(above).is_some_and(|teardowns| {
                    teardowns.is_empty()
                        || teardowns
                            .iter()
                            .any(|teardown| below[ordinal].contains(teardown))
                })
            })
            .collect();
    }
    setups
}

/// What [`setups`] needs to know of a task, in topological order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shape {
    pub(crate) upstream: Vec<usize>,
    pub(crate) setup: bool,
    pub(crate) teardown: bool,
}

fn closure(tasks: &[Shape], next: impl Fn(&Shape) -> &Vec<usize>) -> Vec<BTreeSet<usize>> {
    let mut reached: Vec<BTreeSet<usize>> = Vec::with_capacity(tasks.len());
    if tasks.iter().all(|task| !task.setup && !task.teardown) {
        return vec![BTreeSet::new(); tasks.len()];
    }
    for task in tasks {
        let mut all = BTreeSet::new();
        for one in next(task) {
            all.insert(*one);
            all.extend(reached[*one].iter().copied());
        }
        reached.push(all);
    }
    reached
}
