//! What the engine has to do meanwhile: DAG files that follow from the seed, and what must become of each of their tasks.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use pinwheel_scheduler::model::{
    RunState, TaskState, TriggerRule,
    trigger_rule::{self, Upstream, Verdict},
};

use super::{ledger::SCRIPT, plan::Random};

/// The pool that has a limit.
pub(super) const NARROW: &str = "narrow";
/// Its slots.
pub(super) const NARROW_SLOTS: i32 = 2;
/// The DAG with a schedule.
pub(super) const TICKS: &str = "ticks";
/// Its interval, in seconds.
pub(super) const TICK_SECONDS: i64 = 2;

/// One DAG.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) id: String,
    tasks: Vec<Task>,
    pub(super) max_active_runs: usize,
    pub(super) is_scheduled: bool,
}

/// One task of a DAG.
#[derive(Debug, Clone)]
struct Task {
    id: String,
    after: Vec<usize>,
    rule: TriggerRule,
    fate: Fate,
    retries: i32,
    allow_failure: bool,
    /// How many tenths of a second a try takes.
    steps: usize,
    pool: &'static str,
    /// The upstream task whose output it is given.
    reads: Option<usize>,
}

/// What becomes of the tries of a task that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The try of that number succeeds, those before it fail.
    WorksAt(i32),
    Fails,
}

/// What must have become of a task in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) state: TaskState,
    /// Tries that are recorded as failed.
    pub(super) failed_tries: i32,
}

impl Task {
    fn new(id: impl Into<String>, after: &[usize], random: &mut Random) -> Self {
        Self {
            id: id.into(),
            after: after.to_vec(),
            rule: TriggerRule::AllSuccess,
            fate: Fate::WorksAt(1),
            retries: 0,
            allow_failure: false,
            steps: random.below(5),
            pool: "default",
            reads: None,
        }
    }

    fn rule(mut self, rule: TriggerRule) -> Self {
        self.rule = rule;
        self
    }

    fn fails(mut self) -> Self {
        self.fate = Fate::Fails;
        self
    }

    fn works_at(mut self, try_number: i32) -> Self {
        self.fate = Fate::WorksAt(try_number);
        self.retries = try_number - 1;
        self
    }

    fn reads(mut self, upstream: usize) -> Self {
        self.reads = Some(upstream);
        self
    }

    fn in_narrow_pool(mut self) -> Self {
        self.pool = NARROW;
        self
    }
}

impl Shape {
    fn new(id: &str, tasks: Vec<Task>) -> Self {
        Self {
            id: id.to_owned(),
            tasks,
            max_active_runs: 16,
            is_scheduled: false,
        }
    }

    /// What must have become of every task, by id, and of the run.
    pub(super) fn expected(&self) -> (BTreeMap<&str, Expected>, RunState) {
        let mut states: Vec<TaskState> = Vec::new();
        let mut expected = BTreeMap::new();
        let mut run = RunState::Success;
        for task in &self.tasks {
            let mut upstream = Upstream {
                total: u32::try_from(task.after.len()).expect("a handful"),
                ..Upstream::default()
            };
            for above in &task.after {
                match states[*above] {
                    TaskState::Success => upstream.ok += 1,
                    TaskState::Failed | TaskState::Cancelled => upstream.failed += 1,
                    TaskState::UpstreamFailed => upstream.upstream_failed += 1,
                    TaskState::Skipped => upstream.skipped += 1,
                    TaskState::Waiting
                    | TaskState::Queued
                    | TaskState::Running
                    | TaskState::Sleeping => unreachable!("only final states are noted"),
                }
            }
            let (state, failed_tries) = match trigger_rule::decide(task.rule, &upstream) {
                Verdict::Run { .. } => match task.fate {
                    Fate::WorksAt(try_number) => (TaskState::Success, try_number - 1),
                    Fate::Fails => (TaskState::Failed, task.retries + 1),
                },
                Verdict::Skip { .. } => (TaskState::Skipped, 0),
                Verdict::UpstreamFailed { .. } => (TaskState::UpstreamFailed, 0),
                Verdict::Wait { reason } => panic!("`{}` would wait for ever: {reason}", task.id),
            };
            if state == TaskState::Failed && !task.allow_failure {
                run = RunState::Failed;
            }
            states.push(state);
            let what = Expected {
                state,
                failed_tries,
            };
            expected.insert(task.id.as_str(), what);
        }
        (expected, run)
    }

    /// How many tasks fail the run.
    pub(super) fn failures(&self) -> i32 {
        let (expected, _) = self.expected();
        let failing = self.tasks.iter().filter(|task| {
            !task.allow_failure && expected[task.id.as_str()].state == TaskState::Failed
        });
        i32::try_from(failing.count()).expect("a handful")
    }

    /// The pool of a task.
    pub(super) fn pool_of(&self, task: &str) -> Option<&str> {
        self.task(task).map(|task| task.pool)
    }

    /// The upstream task whose output a task is given.
    pub(super) fn read_by(&self, task: &str) -> Option<&str> {
        let upstream = self.task(task)?.reads?;
        Some(&self.tasks[upstream].id)
    }

    fn task(&self, id: &str) -> Option<&Task> {
        self.tasks.iter().find(|task| task.id == id)
    }

    /// Writes its file, in one step as an editor does.
    pub(super) fn write(&self, folder: &Path, ledger: &Path) {
        let draft = folder.join(format!("{}.draft", self.id));
        fs::write(&draft, self.file(ledger)).expect("the folder of DAGs can be written");
        fs::rename(&draft, folder.join(format!("{}.toml", self.id)))
            .expect("a file of ours can be renamed");
    }

    fn file(&self, ledger: &Path) -> String {
        let mut file = format!(
            "[dag]\nid = \"{}\"\nmax_active_runs = {}\n",
            self.id, self.max_active_runs
        );
        if self.is_scheduled {
            file += &format!("schedule = {{ every = \"{TICK_SECONDS}s\" }}\ncatchup = \"all\"\n");
        }
        file += "[defaults]\nretry_delay = \"200ms\"\n";
        for task in &self.tasks {
            let ids = |places: &[usize]| -> Vec<&str> {
                places
                    .iter()
                    .map(|place| self.tasks[*place].id.as_str())
                    .collect()
            };
            let works_from = match task.fate {
                Fate::WorksAt(try_number) => try_number,
                Fate::Fails => i32::MAX,
            };
            let saw = task.reads.map_or_else(
                || "-".to_owned(),
                |place| format!("{{{{ outputs.{}.token }}}}", self.tasks[place].id),
            );
            write!(
                file,
                "[tasks.{id}]\nkind = \"shell\"\nafter = {after:?}\ntrigger_rule = \"{rule}\"\nretries = {retries}\n\
                 allow_failure = {allow_failure}\npool = \"{pool}\"\n[tasks.{id}.with]\nscript = '''{SCRIPT}'''\n\
                 env = {{ LEDGER = \"{ledger}\", STEPS = \"{steps}\", WORKS_FROM = \"{works_from}\", SAW = \"{saw}\" }}\n",
                id = task.id,
                after = ids(&task.after),
                rule = task.rule,
                retries = task.retries,
                allow_failure = task.allow_failure,
                pool = task.pool,
                ledger = ledger.display(),
                steps = task.steps,
            )
            .expect("a string takes everything");
        }
        file
    }
}

/// The DAGs of a seed.
pub(super) fn generate(random: &mut Random) -> Vec<Shape> {
    let mut shapes = vec![
        chain(random),
        diamond(random),
        fan(random),
        repeated(random),
        ruled(random),
        ticks(random),
    ];
    for place in 0..2 {
        shapes.push(wild(&format!("wild_{place}"), random));
    }
    shapes
}

/// Each task is given the output of the one before.
fn chain(random: &mut Random) -> Shape {
    let length = 4 + random.below(3);
    let tasks = (0..length)
        .map(|place| {
            let id = format!("link_{place}");
            match place.checked_sub(1) {
                None => Task::new(id, &[], random),
                Some(before) => Task::new(id, &[before], random).reads(before),
            }
        })
        .collect();
    Shape::new("chain", tasks)
}

fn diamond(random: &mut Random) -> Shape {
    let mut shape = Shape::new(
        "diamond",
        vec![
            Task::new("top", &[], random),
            Task::new("left", &[0], random).reads(0),
            Task::new("right", &[0], random).works_at(2),
            Task::new("bottom", &[1, 2], random).reads(2),
        ],
    );
    shape.max_active_runs = 1 + random.below(2);
    shape
}

/// The tasks in the middle share a pool with a limit.
fn fan(random: &mut Random) -> Shape {
    let width = 5 + random.below(4);
    let mut tasks = vec![Task::new("begin", &[], random)];
    for place in 0..width {
        tasks.push(Task::new(format!("blade_{place}"), &[0], random).in_narrow_pool());
    }
    let blades: Vec<usize> = (1..=width).collect();
    tasks.push(Task::new("join", &blades, random).reads(1));
    Shape::new("fan", tasks)
}

fn repeated(random: &mut Random) -> Shape {
    Shape::new(
        "repeated",
        vec![
            Task::new("once", &[], random).works_at(2),
            Task::new("twice", &[0], random).works_at(3).reads(0),
            Task::new("done", &[1], random).reads(1),
        ],
    )
}

/// One task fails for good, and every rule below has its say.
fn ruled(random: &mut Random) -> Shape {
    let mut broken = Task::new("broken", &[0], random).fails();
    broken.retries = 1;
    broken.allow_failure = random.percent(50);
    let mut tasks = vec![
        Task::new("start", &[], random),
        broken,
        Task::new("fine", &[0], random),
    ];
    for rule in [
        TriggerRule::AllSuccess,
        TriggerRule::AllDone,
        TriggerRule::OneFailed,
        TriggerRule::OneSuccess,
        TriggerRule::AllFailed,
        TriggerRule::NoneSkipped,
    ] {
        tasks.push(Task::new(format!("by_{rule}"), &[1, 2], random).rule(rule));
    }
    let all: Vec<usize> = (3..tasks.len()).collect();
    tasks.push(Task::new("last", &all, random).rule(TriggerRule::AllDone));
    Shape::new("ruled", tasks)
}

fn ticks(random: &mut Random) -> Shape {
    let mut shape = Shape::new(
        TICKS,
        vec![
            Task::new("tick", &[], random),
            Task::new("tock", &[0], random).reads(0),
        ],
    );
    shape.is_scheduled = true;
    shape.max_active_runs = 4;
    shape
}

/// Any edges, rules and fates.
fn wild(id: &str, random: &mut Random) -> Shape {
    let size = 5 + random.below(4);
    let tasks = (0..size)
        .map(|place| {
            let after: Vec<usize> = (0..place).filter(|_| random.percent(35)).collect();
            let mut task = Task::new(format!("task_{place}"), &after, random);
            if !after.is_empty() {
                task = task.rule(random.pick(&TriggerRule::ALL));
            }
            if random.percent(15) {
                task = task.fails();
                task.allow_failure = random.percent(50);
            } else if random.percent(25) {
                task = task.works_at(2);
            }
            task
        })
        .collect();
    Shape::new(id, tasks)
}
