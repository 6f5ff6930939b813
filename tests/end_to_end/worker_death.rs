//! Workers that are killed, stopped, or asked to end, as real processes, with a task that says by FIFOs what it does.
//!
//! Whether every process of a task is gone is seen by the end of a FIFO that all of them hold open, and whether two
//! executions overlap by a lock that all of them hold. Nothing waits by the clock.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};
use pinwheel_test_support::postgres::Postgres;
use serde_json::Value;

use crate::harness::{PINWHEEL, child_of_this_process, fresh_directory, project};

/// What is not heard of by then will not come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Every process of the first execution holds descriptor 3 and the lock on 9. The second execution says whether it is
/// alone. `begin` is what the first does besides; then it waits for a word that nobody says.
fn script(begin: &str) -> String {
    format!(
        r#"
exec 9> "$FOLDER/lock"
if [ -e "$FOLDER/begun" ]; then
    if flock --nonblock 9; then found=alone; else found=overlap; fi
    echo "again in try $PINWHEEL_TRY_NUMBER, $found" > "$FOLDER/told"
    exit 0
fi
flock --nonblock 9
: > "$FOLDER/begun"
exec 3> "$FOLDER/held"
{begin}
echo "begun in try $PINWHEEL_TRY_NUMBER" > "$FOLDER/told"
read word < "$FOLDER/gate"
"#
    )
}

/// A scheduler over a DAG of one task.
struct World {
    folder: PathBuf,
    database_url: String,
    /// What the task says.
    told: Lines,
    /// Ends with the last process of the task's first execution.
    held: Lines,
    /// Waits for the end of the run.
    run: Child,
    _scheduler: Process,
}

impl World {
    async fn new(name: &str, begin: &str, more: &[&str]) -> Self {
        let folder = fresh_directory(name);
        let dags = folder.join("dags");
        fs::create_dir(&dags).expect("the folder is new");
        for fifo in ["told", "held", "gate"] {
            mkfifo(&folder.join(fifo), Mode::S_IRWXU).expect("the folder is new");
        }
        let dag = format!(
            "[dag]\nid = \"one\"\n[tasks.work]\nkind = \"shell\"\n[tasks.work.with]\nenv = {{ FOLDER = \"{}\" }}\nscript = '''{}'''\n",
            folder.display(),
            script(begin)
        );
        fs::write(dags.join("one.toml"), dag).expect("the folder can be written");
        let database_url = Postgres::shared().empty_database().await;
        let scheduler = Process::start("scheduler", &folder, &database_url, more);
        scheduler.says("scheduler ready");
        // Held open for writing too, so that it does not end between two tasks.
        let both_ways = File::options()
            .read(true)
            .write(true)
            .open(folder.join("told"))
            .expect("it is a FIFO");
        let told = Lines::of(move || both_ways);
        let path = folder.join("held");
        let held = Lines::of(move || File::open(path).expect("it is a FIFO"));
        let run = Command::new(PINWHEEL)
            .args(["dags", "trigger", "one", "--wait", "--json"])
            .args(["--database-url", &database_url])
            .current_dir(project())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary under test starts");
        Self {
            folder,
            database_url,
            told,
            held,
            run,
            _scheduler: scheduler,
        }
    }

    fn worker(&self, more: &[&str]) -> Process {
        let worker = Process::start("worker", &self.folder, &self.database_url, more);
        worker.says("worker ready");
        worker
    }

    /// The states of the run's tasks, once it is final.
    fn run_end(self) -> Value {
        let output = self.run.wait_with_output().expect("it is our child");
        let run: Value = serde_json::from_slice(&output.stdout).expect("it prints JSON");
        assert_eq!(run["state"], "success", "{run}");
        run
    }
}

/// A scheduler or a worker.
struct Process {
    child: Child,
    said: Lines,
}

impl Process {
    fn start(role: &str, folder: &Path, database_url: &str, more: &[&str]) -> Self {
        let dags = folder.join("dags");
        let mut arguments = vec![
            role,
            "--database-url",
            database_url,
            "--dags",
            dags.to_str().expect("temporary paths are UTF-8"),
            "--log-level",
            "info",
            // Nothing here asks for either.
            "--kafka-brokers",
            "127.0.0.1:9",
            "--s3-endpoint",
            "http://127.0.0.1:9",
            "--s3-access-key-id",
            "none",
            "--s3-secret-access-key",
            "none",
        ];
        arguments.extend(more);
        let mut child = child_of_this_process(&arguments);
        let stderr = child.stderr.take().expect("stderr is piped");
        Self {
            child,
            said: Lines::of(move || stderr),
        }
    }

    fn send(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a process number fits");
        kill(Pid::from_raw(pid), signal).expect("it is our child");
    }

    fn says(&self, words: &str) {
        self.said.wait_for(words);
    }

    /// Waits until it and its warden have ended.
    fn end(mut self) -> ExitStatus {
        self.said.wait_for_end();
        self.child.wait().expect("it is our child")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Lines as they come, read on a thread of their own.
struct Lines(Receiver<String>);

impl Lines {
    /// `open` may block until somebody writes.
    fn of<R: std::io::Read>(open: impl FnOnce() -> R + Send + 'static) -> Self {
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(open()).lines() {
                let _nobody_listens = sender.send(line.expect("messages are UTF-8"));
            }
        });
        Self(lines)
    }

    fn next(&self) -> String {
        self.0.recv_timeout(PATIENCE).expect("something is said")
    }

    fn wait_for(&self, words: &str) {
        let mut others = Vec::new();
        loop {
            match self.0.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(words) => return,
                Ok(line) => others.push(line),
                Err(error) => panic!(
                    "`{words}` was not said ({error}), but:\n{}",
                    others.join("\n")
                ),
            }
        }
    }

    fn wait_for_end(&self) {
        loop {
            match self.0.recv_timeout(PATIENCE) {
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("it does not end"),
            }
        }
    }
}

const SHORT_LEASE: [&str; 4] = ["--worker-lease", "6s", "--worker-heartbeat", "1s"];

#[tokio::test]
async fn a_killed_worker_leaves_no_process_of_its_task_behind() {
    let begin = r#"
(echo child >&3; read word < "$FOLDER/gate") &
setsid sh -c 'echo session >&3; read word < "$FOLDER/gate"' &
env -i GATE="$FOLDER/gate" /bin/sh -c 'echo bare >&3; read word < "$GATE"' &
"#;
    let world = World::new("killed", begin, &SHORT_LEASE).await;
    let worker = world.worker(&SHORT_LEASE);
    assert_eq!(world.told.next(), "begun in try 1");
    let mut running = [0; 3].map(|_| world.held.next());
    running.sort();
    assert_eq!(running, ["bare", "child", "session"]);
    worker.send(Signal::SIGKILL);
    world.held.wait_for_end();
    worker.says("pinwheel warden: the worker is gone; killed what 1 of its tasks had running");
    worker.end();
    let _other = world.worker(&SHORT_LEASE);
    assert!(world.told.next().ends_with("alone"));
    world.run_end();
}

#[tokio::test]
async fn a_stopped_workers_processes_are_dead_before_another_runs_its_task_and_its_late_result_is_refused()
 {
    let begin = r#"setsid sh -c 'read word < "$FOLDER/gate"' &"#;
    let world = World::new("stopped", begin, &SHORT_LEASE).await;
    let worker = world.worker(&SHORT_LEASE);
    assert_eq!(world.told.next(), "begun in try 1");
    let _other = world.worker(&SHORT_LEASE);
    worker.send(Signal::SIGSTOP);
    let again = world.told.next();
    assert!(again.ends_with("alone"), "{again}");
    world.held.wait_for_end();
    worker.says("pinwheel warden: the lease of the worker is not renewed");
    worker.send(Signal::SIGCONT);
    worker.says("a late result was refused");
    world.run_end();
}

#[tokio::test]
async fn a_worker_asked_to_end_hands_its_task_back_when_the_grace_is_over_without_spending_a_try() {
    let world = World::new("asked", "", &[]).await;
    let worker = world.worker(&["--worker-grace", "200ms"]);
    assert_eq!(world.told.next(), "begun in try 1");
    worker.send(Signal::SIGTERM);
    worker
        .says("stopping: waiting up to 200ms for 1 running task; Ctrl-C again hands them back now");
    worker.says("the grace is over; handing back what still runs");
    assert!(worker.end().success());
    world.held.wait_for_end();
    let _other = world.worker(&[]);
    assert_eq!(world.told.next(), "again in try 1, alone");
    world.run_end();
}

/// It ignores what asks it to end, and gets ten seconds for that by default.
const STUBBORN: &str = "trap '' TERM";

#[tokio::test]
async fn a_worker_asked_twice_does_not_wait_for_its_task() {
    let world = World::new("twice", STUBBORN, &[]).await;
    let worker = world.worker(&["--worker-grace", "1h"]);
    assert_eq!(world.told.next(), "begun in try 1");
    worker.send(Signal::SIGTERM);
    worker.says("stopping: waiting up to 1h for 1 running task");
    worker.send(Signal::SIGTERM);
    worker.says("handing back what still runs");
    assert!(worker.end().success());
    world.held.wait_for_end();
    let _other = world.worker(&[]);
    assert_eq!(world.told.next(), "again in try 1, alone");
    world.run_end();
}

#[tokio::test]
async fn a_worker_asked_twice_ends_though_it_cannot_hand_back() {
    let mut world = World::new("cut-off", STUBBORN, &[]).await;
    let worker = world.worker(&["--worker-grace", "1h"]);
    assert_eq!(world.told.next(), "begun in try 1");
    world.run.kill().expect("it is our child");
    let (_, database) = world.database_url.rsplit_once('/').expect("it names one");
    let postgres = Postgres::shared();
    postgres
        .administer(&format!(
            "alter database {database} allow_connections false"
        ))
        .await;
    postgres
        .administer(&format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{database}'"
        ))
        .await;
    worker.send(Signal::SIGTERM);
    worker.says("stopping: waiting up to 1h for 1 running task");
    worker.send(Signal::SIGTERM);
    worker.says("could not be handed back in time");
    assert_eq!(worker.end().code(), Some(130));
    world.held.wait_for_end();
}
