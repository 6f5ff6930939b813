//! How the tasks of a file hang together: names of upstream tasks, cycles, the topological order.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    ops::Range,
};

use petgraph::{algo::kosaraju_scc, graph::DiGraph};

use super::{
    diagnostic::{Report, quoted, quoted_list},
    flow::DraftGroup,
    read::DraftTask,
    table::Text,
};

/// The tasks as a graph. Indices are places in the file's order.
pub(super) struct Graph {
    /// Direct upstream tasks, each with the place of its name, without those that are wrong.
    upstream: Vec<Vec<(usize, Range<usize>)>>,
    /// The topological order, ties by the order of the file; `None` with a cycle.
    pub(super) order: Option<Vec<usize>>,
    ancestors: Vec<Bits>,
}

impl Graph {
    /// Builds the graph and notes what is wrong with it.
    pub(super) fn build(
        tasks: &[DraftTask<'_, '_>],
        groups: &[DraftGroup],
        report: &mut Report<'_>,
    ) -> Self {
        let indices: HashMap<&str, usize> = tasks
            .iter()
            .enumerate()
            .map(|(index, task)| (task.id.as_str(), index))
            .collect();
        let members = Members::of(tasks);
        let mut upstream: Vec<_> = tasks
            .iter()
            .map(|task| upstream(task, tasks, &indices, &members, report))
            .collect();
        for group in groups {
            let Some(own) = members.all.get(group.name.text.as_str()) else {
                report.refuse(
                    group.name.span.clone(),
                    format!("group {} has no tasks", quoted(&group.name.text)),
                    "",
                    Some(format!(
                        "give a task an id that begins with it, such as `[tasks.\"{}.first\"]`",
                        group.name.text
                    )),
                );
                continue;
            };
            for named in &group.after {
                let above = above(named, tasks, &indices, &members);
                if above.is_empty() || above.iter().any(|one| own.contains(one)) {
                    report.refuse(
                        named.span.clone(),
                        format!(
                            "group {} comes after {}, which is no task or group outside of it",
                            quoted(&group.name.text),
                            quoted(&named.text)
                        ),
                        "",
                        None,
                    );
                    continue;
                }
                for first in members.first(tasks, &group.name.text) {
                    for one in &above {
                        if upstream[first].iter().all(|(known, _)| known != one) {
                            upstream[first].push((*one, named.span.clone()));
                        }
                    }
                }
            }
        }
        let mut graph = Self {
            upstream,
            order: None,
            ancestors: Vec::new(),
        };
        graph.order = graph.sort();
        match &graph.order {
            Some(order) => graph.ancestors = graph.ancestors(order),
            None => graph.refuse_cycles(tasks, report),
        }
        graph
    }

    /// Direct upstream tasks.
    pub(super) fn upstream(&self, task: usize) -> impl Iterator<Item = usize> + '_ {
        self.upstream[task].iter().map(|(index, _)| *index)
    }

    /// Says whether `above` is upstream of `task`, directly or not. With a cycle nobody can tell, and the answer is yes.
    pub(super) fn is_upstream(&self, above: usize, task: usize) -> bool {
        self.ancestors
            .get(task)
            .is_none_or(|ancestors| ancestors.contains(above))
    }

    fn downstream(&self) -> Vec<Vec<usize>> {
        let mut downstream = vec![Vec::new(); self.upstream.len()];
        for (task, upstream) in self.upstream.iter().enumerate() {
            for (above, _) in upstream {
                downstream[*above].push(task);
            }
        }
        downstream
    }

    /// Kahn's algorithm; of the tasks that are ready, the first in the file comes first.
    fn sort(&self) -> Option<Vec<usize>> {
        let downstream = self.downstream();
        let mut waiting_for: Vec<usize> = self.upstream.iter().map(Vec::len).collect();
        let mut ready: BinaryHeap<Reverse<usize>> = (0..waiting_for.len())
            .filter(|task| waiting_for[*task] == 0)
            .map(Reverse)
            .collect();
        let mut order = Vec::with_capacity(waiting_for.len());
        while let Some(Reverse(task)) = ready.pop() {
            order.push(task);
            for below in &downstream[task] {
                waiting_for[*below] -= 1;
                if waiting_for[*below] == 0 {
                    ready.push(Reverse(*below));
                }
            }
        }
        (order.len() == waiting_for.len()).then_some(order)
    }

    fn ancestors(&self, order: &[usize]) -> Vec<Bits> {
        let mut ancestors = vec![Bits::none(self.upstream.len()); self.upstream.len()];
        for task in order {
            let mut own = Bits::none(self.upstream.len());
            for above in self.upstream(*task) {
                own.insert(above);
                own.insert_all(&ancestors[above]);
            }
            ancestors[*task] = own;
        }
        ancestors
    }

    /// One note for every knot of tasks that wait for each other, with its shortest cycle.
    fn refuse_cycles(&self, tasks: &[DraftTask<'_, '_>], report: &mut Report<'_>) {
        let mut graph = DiGraph::<(), (), usize>::with_capacity(tasks.len(), tasks.len());
        let nodes: Vec<_> = tasks.iter().map(|_| graph.add_node(())).collect();
        for (task, upstream) in self.upstream.iter().enumerate() {
            for (above, _) in upstream {
                graph.add_edge(nodes[*above], nodes[task], ());
            }
        }
        let downstream = self.downstream();
        for knot in kosaraju_scc(&graph) {
            let members: HashSet<usize> = knot.iter().map(|node| node.index()).collect();
            let Some(first) = members.iter().copied().min().filter(|_| members.len() > 1) else {
                continue;
            };
            let cycle = shortest_cycle(first, &members, &downstream);
            let Some(last) = cycle.last().copied() else {
                continue;
            };
            let span = self.upstream[first]
                .iter()
                .find(|(above, _)| *above == last)
                .map_or(tasks[first].id_span.clone(), |(_, span)| span.clone());
            report.refuse(
                span,
                format!("the tasks wait for each other: {}", written(&cycle, tasks)),
                format!(
                    "{} waits for {}",
                    quoted(&tasks[first].id),
                    quoted(&tasks[last].id)
                ),
                Some("remove one of these from an `after`".to_owned()),
            );
        }
    }
}

/// `a → b → a`, the middle of a long cycle left out.
fn written(cycle: &[usize], tasks: &[DraftTask<'_, '_>]) -> String {
    const MOST: usize = 20;
    let mut ids: Vec<&str> = cycle.iter().map(|task| tasks[*task].id.as_str()).collect();
    if ids.len() > MOST {
        ids.splice(MOST / 2..ids.len() - MOST / 2, ["…"]);
    }
    ids.extend(cycle.first().map(|task| tasks[*task].id.as_str()));
    format!("`{}`", ids.join(" → "))
}

/// The shortest way from `first` back to itself, without its repetition at the end.
fn shortest_cycle(first: usize, members: &HashSet<usize>, downstream: &[Vec<usize>]) -> Vec<usize> {
    let mut came_from: HashMap<usize, usize> = HashMap::new();
    let mut queue = VecDeque::from([first]);
    while let Some(task) = queue.pop_front() {
        for below in downstream[task]
            .iter()
            .copied()
            .filter(|below| members.contains(below))
        {
            if below == first {
                let mut cycle = vec![task];
                while let Some(before) = cycle
                    .last()
                    .filter(|task| **task != first)
                    .and_then(|task| came_from.get(task))
                {
                    cycle.push(*before);
                }
                cycle.reverse();
                return cycle;
            }
            if let std::collections::hash_map::Entry::Vacant(entry) = came_from.entry(below) {
                entry.insert(task);
                queue.push_back(below);
            }
        }
    }
    vec![first]
}

fn upstream(
    task: &DraftTask<'_, '_>,
    tasks: &[DraftTask<'_, '_>],
    indices: &HashMap<&str, usize>,
    members: &Members<'_>,
    report: &mut Report<'_>,
) -> Vec<(usize, Range<usize>)> {
    let mut upstream: Vec<(usize, Range<usize>)> = Vec::new();
    let mut seen = HashSet::new();
    for named in &task.after {
        let called = quoted(&task.id);
        if named.text == task.id {
            report.refuse(
                named.span.clone(),
                format!("task {called} waits for itself"),
                "",
                Some("remove it".to_owned()),
            );
        } else if !seen.insert(named.text.as_str()) {
            let message = format!(
                "upstream {} is named twice in task {called}",
                quoted(&named.text)
            );
            report.refuse(
                named.span.clone(),
                message,
                "named before",
                Some("remove one".to_owned()),
            );
        } else if let Some(index) = indices.get(named.text.as_str()) {
            upstream.push((*index, named.span.clone()));
        } else if members.all.contains_key(named.text.as_str()) {
            let own = members.all[named.text.as_str()]
                .iter()
                .any(|member| tasks[*member].id == task.id);
            if own {
                report.refuse(
                    named.span.clone(),
                    format!("task {called} waits for its own group"),
                    "",
                    Some("name the tasks of the group that it comes after".to_owned()),
                );
                continue;
            }
            for above in members.last(tasks, &named.text) {
                if upstream.iter().all(|(known, _)| *known != above) {
                    upstream.push((above, named.span.clone()));
                }
            }
        } else {
            let others = || {
                tasks
                    .iter()
                    .map(|task| task.id.as_str())
                    .filter(|id| *id != task.id)
            };
            let hint = report.guess(&named.text, others(), || {
                Some(match tasks.len() {
                    1 => "there is no other task: leave `after` out".to_owned(),
                    _ => format!("the other tasks are {}", quoted_list(others())),
                })
            });
            let message = format!("unknown upstream {} in task {called}", quoted(&named.text));
            report.refuse(named.span.clone(), message, "no task has this id", hint);
        }
    }
    upstream
}

/// A set of small numbers.
#[derive(Clone)]
struct Bits(Vec<u64>);

impl Bits {
    fn none(count: usize) -> Self {
        Self(vec![0; count.div_ceil(64)])
    }

    fn insert(&mut self, number: usize) {
        self.0[number / 64] |= 1 << (number % 64);
    }

    fn insert_all(&mut self, other: &Self) {
        for (own, other) in self.0.iter_mut().zip(&other.0) {
            *own |= other;
        }
    }

    fn contains(&self, number: usize) -> bool {
        self.0[number / 64] & (1 << (number % 64)) != 0
    }
}

/// Which tasks are in which group.
struct Members<'a> {
    all: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Members<'a> {
    fn of(tasks: &'a [DraftTask<'_, '_>]) -> Self {
        let mut all: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, task) in tasks.iter().enumerate() {
            for (dot, _) in task.id.match_indices('.') {
                all.entry(&task.id[..dot]).or_default().push(index);
            }
        }
        Self { all }
    }

    fn of_group(&self, group: &str) -> &[usize] {
        self.all.get(group).map_or(&[], Vec::as_slice)
    }

    /// The tasks of a group that come after no other of it.
    fn first(&self, tasks: &[DraftTask<'_, '_>], group: &str) -> Vec<usize> {
        let inside = format!("{group}.");
        let own = self.of_group(group).iter().copied();
        own.filter(|member| {
            tasks[*member]
                .after
                .iter()
                .all(|above| !above.text.starts_with(&inside))
        })
        .collect()
    }

    /// The tasks of a group that no other of it comes after. A teardown is no part of what a group is about.
    fn last(&self, tasks: &[DraftTask<'_, '_>], group: &str) -> Vec<usize> {
        let own = self.of_group(group);
        let is_work = |member: usize| !tasks[member].flow.flow.teardown;
        let named: HashSet<&str> = own
            .iter()
            .filter(|member| is_work(**member))
            .flat_map(|member| tasks[*member].after.iter().map(|above| above.text.as_str()))
            .collect();
        let is_last = |member: usize| {
            let id = tasks[member].id.as_str();
            !named.contains(id)
                && id
                    .match_indices('.')
                    .all(|(dot, _)| !named.contains(&id[..dot]))
        };
        let last: Vec<usize> = own
            .iter()
            .copied()
            .filter(|member| is_work(*member) && is_last(*member))
            .collect();
        if last.is_empty() { own.to_vec() } else { last }
    }
}

/// What a name in an `after` stands for: a task, or the last tasks of a group.
fn above(
    named: &Text,
    tasks: &[DraftTask<'_, '_>],
    indices: &HashMap<&str, usize>,
    members: &Members<'_>,
) -> Vec<usize> {
    match indices.get(named.text.as_str()) {
        Some(index) => vec![*index],
        None => members.last(tasks, &named.text),
    }
}
