//! One process of the binary in a single role, over services of the test's own. What it says goes to a file, and it ends
//! with the value, or with the test process.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pinwheel_test_support::child;

use crate::harness::PINWHEEL;

/// How long a test waits for what must happen. Nothing is measured with it: it only ends a test that would hang.
const PATIENCE: Duration = Duration::from_secs(180);

/// Looks until `look` finds something. For what another process does and nothing tells of.
///
/// # Panics
/// It never does.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "after {} s still not: {what}",
            PATIENCE.as_secs()
        );
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// A running process of the binary.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts the binary in `folder` with nothing of Pinwheel's in its environment but what is given. What it says goes to
    /// `log`.
    pub(crate) fn start(
        arguments: &[&str],
        environment: &[(&str, String)],
        folder: &Path,
        log: PathBuf,
    ) -> Self {
        let words = fs::File::create(&log).expect("the folder of logs can be written");
        let mut command = child::ending_with_us("KILL", PINWHEEL);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("PINWHEEL_") || text == "DATABASE_URL" || text == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        command
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(words);
        let child = child::spawn(command).expect("setpriv is part of util-linux");
        Self { child, log }
    }

    /// What it has said so far.
    pub(crate) fn said(&self) -> String {
        let bytes = fs::read(&self.log).expect("the log was made with the process");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of ours")
    }

    /// Waits until it says that it is ready, and returns that line.
    pub(crate) async fn ready(&mut self) -> String {
        eventually("the process is ready", async || {
            let said = self.said();
            let ready = said
                .lines()
                .find(|line| line.starts_with("pinwheel: ") && line.contains(" ready"));
            if ready.is_none()
                && let Some(status) = self.ended()
            {
                panic!("it ended before it was ready: {status}\n{said}");
            }
            ready.map(str::to_owned)
        })
        .await
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("a child of ours that nobody awaited");
    }

    /// Kills it, awaits its end and says how it ended.
    pub(crate) fn kill(&mut self) -> ExitStatus {
        self.child.kill().expect("a child of ours");
        self.child.wait().expect("a child of ours")
    }

    /// Whether SIGSTOP holds it.
    pub(crate) fn is_stopped(&self) -> bool {
        self.status_fields()
            .first()
            .is_some_and(|state| state == "T")
    }

    /// The CPU time it has used, in the kernel's ticks (a hundredth of a second).
    pub(crate) fn cpu_ticks(&self) -> u64 {
        // Fields 14 and 15 of /proc/PID/stat; the first here is the third there.
        let fields = self.status_fields();
        [11, 12]
            .iter()
            .map(|place| fields[*place].parse::<u64>().expect("a number of ticks"))
            .sum()
    }

    /// The fields of /proc/PID/stat after the name, which may contain blanks.
    fn status_fields(&self) -> Vec<String> {
        let status = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))
            .expect("it is there until it is awaited");
        let (_, fields) = status.rsplit_once(')').expect("the name is in brackets");
        fields.split_whitespace().map(str::to_owned).collect()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("process ids are small"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}
