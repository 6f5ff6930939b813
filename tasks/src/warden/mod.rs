//! The warden: a small process beside every worker that ends what the worker has started when the worker itself cannot.
//!
//! A worker that was killed or stopped runs no code, and a parent-death signal reaches a direct child at most. So the worker
//! starts its own binary a second time and tells it, through a pipe, which process groups it runs and until when its lease
//! may be trusted. The warden kills them when the pipe ends, which the kernel sees to however the worker dies, and when that
//! time is over without a renewal, because then the tasks belong to somebody else. It must never do anything else.
//!
//! Why nothing escapes:
//!
//! - The pipe ends only when nobody holds its writing end. Only the worker has it, and every child that the worker has
//!   forked has it too until it runs its own program (the standard library opens everything close-on-exec). So when the
//!   pipe ends, every process of a task runs its own program and carries its mark, and one that was started just before
//!   the worker died, too late to be told of, is found by it.
//! - The mark is a variable of the environment, which whatever a task starts inherits: a process that left the group by
//!   `setsid` is found as well. One that clears its environment *and* leaves its group is not.
//! - A worker that is stopped, instead of killed, is the case of the lease. The moment it ends is told as a point of the
//!   clock that both processes share, so a worker that was stopped while it told it cannot prolong its trust.
//!
//! Why nobody else is hit: see [`serve`](serve::serve)'s `Group::kill` for numbers that come round again.

mod hunt;
mod message;
mod serve;

#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    fs::File,
    io::{self, Write},
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::Pid,
};

use message::{Message, Moment, Number};
pub use serve::serve;

/// The variable with the mark of a try.
pub(crate) const MARK: &str = "PINWHEEL_WARDEN";
/// A warden that ends at once is not started again before this: something is wrong with it, and it costs a millisecond.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// What the pipe holds while the warden looks for processes: 100,000 messages. The default would do for 6,000.
const PIPE_BYTES: i32 = 1024 * 1024;

/// The worker's end. Cheap to clone; the process itself is started with the first try.
#[derive(Clone)]
pub struct Warden {
    shared: Arc<Shared>,
}

struct Shared {
    program: PathBuf,
    arguments: Vec<OsString>,
    /// Nobody else can guess it, so nobody else's processes bear it.
    name: String,
    state: Mutex<State>,
}

/// Everything that a new warden has to be told.
#[derive(Default)]
struct State {
    helper: Option<Helper>,
    started: Option<Instant>,
    next: Number,
    running: BTreeMap<Number, Option<Pid>>,
    trusted_until: Option<Moment>,
}

struct Helper {
    pipe: File,
    child: Option<Child>,
}

/// One try, from before its first process starts. Dropping it means that it was given up.
pub(crate) struct Ward {
    shared: Arc<Shared>,
    number: Number,
    over: bool,
}

impl Warden {
    /// A warden that is started as `program` with `arguments`, which must call [`serve`] and nothing else.
    pub fn new(
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Self {
        let shared = Shared {
            program: program.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            name: uuid::Uuid::new_v4().simple().to_string(),
            state: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Lets tasks run until `deadline`; what still runs then is killed, unless a later deadline was told before. Without a
    /// first call they may run as long as this process lives.
    pub fn trust_until(&self, deadline: Instant) {
        // In this order: time that passes in between makes the moment earlier, never later.
        let Moment(now) = Moment::now();
        let left = deadline.saturating_duration_since(Instant::now());
        let until = Moment(now.saturating_add(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX)));
        let mut state = self.shared.state();
        state.trusted_until = Some(until);
        if state.helper.is_some() || !state.running.is_empty() {
            self.shared.tell(&mut state, &Message::Trust(until));
        }
    }

    /// Announces a try. Its processes have to bear [`Ward::mark`].
    pub(crate) fn begin(&self) -> Ward {
        let mut state = self.shared.state();
        let number = state.next;
        state.next += 1;
        state.running.insert(number, None);
        self.shared.tell(&mut state, &Message::Begin(number));
        drop(state);
        Ward {
            shared: Arc::clone(&self.shared),
            number,
            over: false,
        }
    }
}

impl fmt::Debug for Warden {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Warden")
            .field("program", &self.shared.program)
            .finish_non_exhaustive()
    }
}

impl Ward {
    /// The value of [`MARK`] in the environment of the try's processes.
    pub(crate) fn mark(&self) -> String {
        format!("{}-{}", self.shared.name, self.number)
    }

    /// Tells which process group is the try's.
    pub(crate) fn leads(&self, leader: Pid) {
        let mut state = self.shared.state();
        state.running.insert(self.number, Some(leader));
        self.shared
            .tell(&mut state, &Message::Leads(self.number, leader));
    }

    /// The try has ended by itself, and its group is gone. What it has left behind elsewhere, on purpose, may stay.
    pub(crate) fn end(mut self) {
        self.over = true;
        self.shared.forget(self.number, &Message::Over(self.number));
    }
}

impl Drop for Ward {
    fn drop(&mut self) {
        if !self.over {
            self.shared
                .forget(self.number, &Message::GivenUp(self.number));
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, number: Number, message: &Message) {
        let mut state = self.state();
        state.running.remove(&number);
        self.tell(&mut state, message);
    }

    /// Tells a message whose effect `state` has already. A warden that does not take it is replaced by one that is told
    /// everything.
    fn tell(&self, state: &mut State, message: &Message) {
        if let Some(helper) = &state.helper {
            match helper.write(message) {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(%error, "the warden of this worker is gone; starting another");
                    state.retire();
                }
            }
        }
        if state
            .started
            .is_some_and(|started| started.elapsed() < RESTART_PAUSE)
        {
            return;
        }
        state.started = Some(Instant::now());
        let told = self.start().and_then(|helper| {
            let helper = state.helper.insert(helper);
            helper.write(&Message::Name(self.name.clone()))?;
            if let Some(until) = state.trusted_until {
                helper.write(&Message::Trust(until))?;
            }
            for (number, leader) in &state.running {
                helper.write(&Message::Begin(*number))?;
                if let Some(leader) = leader {
                    helper.write(&Message::Leads(*number, *leader))?;
                }
            }
            helper.write(message)
        });
        if let Err(error) = told {
            tracing::error!(%error, "the warden of this worker cannot be started; if the worker is killed now, what its tasks run stays behind");
            state.retire();
        }
    }

    fn start(&self) -> io::Result<Helper> {
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            // Among others the mark of a try that this very worker may run in.
            .env_clear()
            .envs(
                ["LD_LIBRARY_PATH"]
                    .iter()
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            )
            .current_dir("/")
            // Ctrl-C on the terminal is for the worker.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let pipe = child
            .stdin
            .take()
            .expect("it was asked for a line above")
            .into();
        let pipe: OwnedFd = pipe;
        // Without the larger pipe a long search for processes only looks like a warden that hangs.
        let _smaller = fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        // A warden that hangs must not hang the worker.
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Helper {
            pipe: pipe.into(),
            child: Some(child),
        })
    }
}

impl State {
    /// Ends a warden that is of no use any more. It must not come to the end of its pipe: it would kill what its
    /// successor watches.
    fn retire(&mut self) {
        if let Some(mut helper) = self.helper.take()
            && let Some(child) = &mut helper.child
        {
            let _gone_already = child.kill();
        }
    }
}

impl Helper {
    fn write(&self, message: &Message) -> io::Result<()> {
        // One system call: a line this short goes into the pipe whole or not at all.
        (&self.pipe).write_all(message.to_string().as_bytes())
    }
}

/// A warden ends by itself when its pipe does, right after this; somebody has to bury it.
impl Drop for Helper {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _no_thread = thread::Builder::new()
                .name("warden-end".to_owned())
                .spawn(move || child.wait());
        }
    }
}
