//! Child processes that never outlive us: started from one thread that lives as long as the process, because the
//! kernel's parent-death signal is bound to the *thread* that made the child.

use std::{
    fs::File,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, LazyLock, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};
use tokio::sync::{oneshot, watch};

use crate::failure::{Failure, Result};

/// Who a child runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RunAs {
    /// The user that we run as.
    Ourselves,
    /// Somebody else; only root can ask for it.
    Other { uid: u32, gid: u32 },
}

/// A program to start.
#[derive(Debug)]
pub(crate) struct Program {
    /// What messages call it.
    pub(crate) name: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) run_as: RunAs,
    /// Its working directory.
    pub(crate) folder: PathBuf,
    /// Where both of its streams are appended.
    pub(crate) log: PathBuf,
}

/// A running child.
#[derive(Debug)]
pub(crate) struct Child {
    name: &'static str,
    log: PathBuf,
    process: Arc<Process>,
    ended: watch::Receiver<Option<ExitStatus>>,
}

#[derive(Debug)]
struct Process {
    pid: Pid,
    /// False once the process has been reaped: from then on its number may belong to somebody else.
    ours: Mutex<bool>,
}

impl Child {
    /// Starts a program in a process group of its own, so that Ctrl-C on the terminal reaches us alone and we decide
    /// in which order things end. It gets SIGINT when we die without saying so.
    pub(crate) async fn start(program: Program) -> Result<Self> {
        let (name, log) = (program.name, program.log.clone());
        let (answer, started) = oneshot::channel();
        STARTER
            .send((program, answer))
            .expect("the starter thread lives as long as the process");
        let (process, ended) = started
            .await
            .expect("the starter thread answers every request")
            .map_err(|error| Failure::failed(format!("cannot start {name}")).because(error))?;
        Ok(Self {
            name,
            log,
            process,
            ended,
        })
    }

    /// Waits until the child has ended.
    pub(crate) async fn ended(&self) -> ExitStatus {
        let mut ended = self.ended.clone();
        let status = ended
            .wait_for(Option::is_some)
            .await
            .expect("the waiting thread reports before it ends");
        status.expect("that is what was waited for")
    }

    /// How the child ended, if it has.
    pub(crate) fn has_ended(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }

    /// Sends SIGINT, and SIGKILL to what is still there after `patience`.
    pub(crate) async fn stop(&self, patience: Duration) {
        self.process.signal(Signal::SIGINT);
        if tokio::time::timeout(patience, self.ended()).await.is_err() {
            tracing::warn!(
                child = self.name,
                "{} did not end within {} s and is killed",
                self.name,
                patience.as_secs()
            );
            self.process.signal(Signal::SIGKILL);
            self.ended().await;
        }
    }

    /// The failure to report when the child ended by itself: its last words and where the rest is.
    pub(crate) fn ended_unasked(&self, status: ExitStatus) -> Failure {
        let words = last_lines(&self.log);
        let message = format!("{} ended by itself: {status}\n\n{words}", self.name);
        Failure::failed(message.trim_end())
            .hint(format!("the whole log is in `{}`", self.log.display()))
    }
}

/// A child whose owner gave up half way does not stay.
impl Drop for Child {
    fn drop(&mut self) {
        self.process.signal(Signal::SIGINT);
    }
}

impl Process {
    fn signal(&self, signal: Signal) {
        let ours = self.ours.lock().unwrap_or_else(PoisonError::into_inner);
        if *ours {
            let _ended_but_not_reaped = kill(self.pid, signal);
        }
    }
}

type Started = std::io::Result<(Arc<Process>, watch::Receiver<Option<ExitStatus>>)>;

/// The thread that makes every child and never ends.
static STARTER: LazyLock<mpsc::Sender<(Program, oneshot::Sender<Started>)>> = LazyLock::new(|| {
    let (sender, requests) = mpsc::channel::<(Program, oneshot::Sender<Started>)>();
    thread::Builder::new()
        .name("child-starter".to_owned())
        .spawn(move || {
            for (program, answer) in requests {
                let _asker_gave_up = answer.send(start(&program));
            }
        })
        .expect("a thread can be made when the process starts");
    sender
});

fn start(program: &Program) -> Started {
    let log = File::options()
        .create(true)
        .append(true)
        .open(&program.log)?;
    let mut child = command(program)
        .args(&program.arguments)
        .current_dir(&program.folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()?;
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process number fits"));
    let process = Arc::new(Process {
        pid,
        ours: Mutex::new(true),
    });
    let (sender, ended) = watch::channel(None);
    let watched = Arc::clone(&process);
    thread::Builder::new()
        .name(format!("wait-{}", program.name))
        .spawn(move || {
            // Look without reaping, and reap under the lock: so a signal can never hit a stranger with the same number.
            let _interrupted = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
            let mut ours = watched.ours.lock().unwrap_or_else(PoisonError::into_inner);
            let status = child.wait().expect("our own child can be waited for");
            *ours = false;
            sender.send_replace(Some(status));
        })?;
    Ok((process, ended))
}

/// The program behind `setpriv`, which asks for the parent-death signal after it changed the user: the kernel
/// forgets it when the user changes.
pub(super) fn command(program: &Program) -> Command {
    let Some(setpriv) = find_in_path("setpriv") else {
        tracing::warn!(
            "`setpriv` (Debian: util-linux) is missing, so {} will stay behind if Pinwheel is killed",
            program.name
        );
        let mut command = Command::new(&program.path);
        if let RunAs::Other { uid, gid } = program.run_as {
            command.uid(uid).gid(gid);
        }
        return command;
    };
    let mut command = Command::new(setpriv);
    if let RunAs::Other { uid, gid } = program.run_as {
        command.args([
            format!("--reuid={uid}"),
            format!("--regid={gid}"),
            "--clear-groups".to_owned(),
        ]);
    }
    command
        .args(["--pdeathsig", "INT", "--"])
        .arg(&program.path);
    command
}

/// The full path of a program that PATH names.
pub(crate) fn find_in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|candidate| is_program(candidate))
}

/// Whether a file is there and may be executed by somebody.
pub(crate) fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// The end of a log, for messages.
pub(crate) fn last_lines(log: &Path) -> String {
    const LINES: usize = 8;
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
