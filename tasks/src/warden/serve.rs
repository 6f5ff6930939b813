//! The warden itself: plain blocking code in a process of its own. It reads the pipe, waits for the end of the lease, and
//! kills.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl,
        signal::{SigSet, Signal, killpg},
    },
    time::ClockId,
    unistd::Pid,
};

use super::{
    hunt,
    message::{Lines, Message, Moment, Number, nanoseconds},
};

/// Is the warden of the process that holds the other end of standard input, until that end is closed.
pub fn serve() {
    shield();
    // Not through the buffer of the standard library: what is read there can no longer be waited for.
    match io::stdin().as_fd().try_clone_to_owned() {
        Ok(pipe) => watch(&mut File::from(pipe)),
        Err(error) => say(&format!("there is no pipe to listen to: {error}")),
    }
}

/// A service manager that stops everything at once, or a terminal that hangs up, must not end the warden before its
/// worker: it ends by the end of the pipe alone. A process group of its own keeps Ctrl-C away already.
fn shield() {
    let mut signals = SigSet::empty();
    for signal in [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
    ] {
        signals.add(signal);
    }
    // What is blocked for good is as good as ignored, and needs no handler.
    let _shielded_less = signals.thread_block();
    // It was started by way of a link whose name says nothing.
    let _called_otherwise = prctl::set_name(c"pinwheel-warden");
}

/// Messages gather for so long: a process that is woken for every message costs the worker more than what it runs.
const GATHER: Duration = Duration::from_millis(20);

/// Watches one worker to its end.
pub(super) fn watch(pipe: &mut (impl Read + AsFd)) {
    let mut lines = Lines::default();
    let mut wards = Wards::default();
    let mut chunk = [0; 16 * 1024];
    loop {
        match wait(pipe.as_fd(), Until::AWord, wards.patience()) {
            // What the worker has said meanwhile comes first: it may be a renewal.
            Ok(Heard::Something) => match pipe.read(&mut chunk) {
                Ok(0) => break,
                Ok(length) => {
                    for message in lines.take(&chunk[..length]) {
                        wards.hear(message);
                    }
                    if length == chunk.len() {
                        continue;
                    }
                    wards.enforce();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            },
            Ok(Heard::Nothing) => {
                wards.enforce();
                continue;
            }
            Err(_) => break,
        }
        let gather = wards
            .patience()
            .map_or(GATHER, |patience| patience.min(GATHER));
        if wait(pipe.as_fd(), Until::TheEnd, Some(gather)).is_err() {
            break;
        }
    }
    wards.end();
}

#[derive(Debug, Clone, Copy)]
enum Until {
    /// The worker says something, or the pipe ends.
    AWord,
    /// The pipe ends, which nothing can keep from being heard.
    TheEnd,
}

enum Heard {
    Something,
    Nothing,
}

fn wait(pipe: BorrowedFd<'_>, until: Until, patience: Option<Duration>) -> nix::Result<Heard> {
    let timeout = patience.map_or(PollTimeout::NONE, |patience| {
        // Rounded up, so that nothing turns in circles for the last part of a millisecond.
        let milliseconds = patience.as_nanos().div_ceil(1_000_000);
        PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX)
    });
    let events = match until {
        Until::AWord => PollFlags::POLLIN,
        Until::TheEnd => PollFlags::empty(),
    };
    let mut fds = [PollFd::new(pipe, events)];
    match poll(&mut fds, timeout) {
        Ok(0) | Err(Errno::EINTR) => Ok(Heard::Nothing),
        Ok(_) => Ok(Heard::Something),
        Err(error) => Err(error),
    }
}

/// What one try runs, as far as it was told.
#[derive(Debug, Default)]
struct Ward {
    group: Option<Group>,
    /// It was killed at the end of the lease; what is new of it since then is not.
    killed: bool,
}

#[derive(Debug)]
struct Group {
    leader: Pid,
    /// When it was told, by the clock that `/proc` counts the starts of processes by.
    told_at: u64,
}

/// The tries of one worker.
#[derive(Debug, Default)]
struct Wards {
    name: String,
    running: BTreeMap<Number, Ward>,
    /// Given up; what is left of them is still to be looked for.
    given_up: BTreeSet<Number>,
    trusted_until: Option<Moment>,
}

impl Wards {
    fn hear(&mut self, message: Message) {
        match message {
            Message::Name(name) => self.name = name,
            Message::Begin(number) => {
                self.running.entry(number).or_default();
            }
            Message::Leads(number, leader) => {
                let told_at = nanoseconds(ClockId::CLOCK_BOOTTIME);
                let group = Some(Group { leader, told_at });
                self.running.insert(
                    number,
                    Ward {
                        group,
                        killed: false,
                    },
                );
            }
            Message::Over(number) => {
                self.running.remove(&number);
            }
            Message::GivenUp(number) => {
                self.running.remove(&number);
                self.given_up.insert(number);
            }
            Message::Trust(until) => self.trusted_until = Some(until),
        }
    }

    /// How long the pipe may be silent before there is something to do; for ever when that is `None`.
    fn patience(&self) -> Option<Duration> {
        if !self.given_up.is_empty() {
            return Some(Duration::ZERO);
        }
        if self.running.values().all(|ward| ward.killed) {
            return None;
        }
        let Moment(until) = self.trusted_until?;
        Some(Duration::from_nanos(until.saturating_sub(Moment::now().0)))
    }

    /// Does what is due when the pipe has nothing more to say for now.
    fn enforce(&mut self) {
        if self
            .trusted_until
            .is_some_and(|until| until <= Moment::now())
        {
            self.kill_running();
        }
        if !self.given_up.is_empty() {
            let given_up = std::mem::take(&mut self.given_up);
            hunt::kill(&self.name, |number| given_up.contains(&number));
        }
    }

    /// The worker has been stopped, or cut off for longer than it can be trusted.
    fn kill_running(&mut self) {
        let count = self.running.values().filter(|ward| !ward.killed).count();
        if count == 0 {
            return;
        }
        self.kill();
        say(&format!(
            "the lease of the worker is not renewed; killed what {count} of its tasks had running"
        ));
    }

    /// The worker is dead, however it died, or has let go of the pipe.
    fn end(mut self) {
        let count = self.running.len();
        if count == 0 && self.given_up.is_empty() {
            return;
        }
        self.kill();
        if count > 0 {
            say(&format!(
                "the worker is gone; killed what {count} of its tasks had running"
            ));
        }
    }

    fn kill(&mut self) {
        for ward in self.running.values_mut() {
            ward.killed = true;
            if let Some(group) = &ward.group {
                group.kill();
            }
        }
        // Then whatever has left its group, or was born too late to be told of.
        hunt::kill(&self.name, |number| {
            self.running.contains_key(&number) || self.given_up.contains(&number)
        });
        self.given_up.clear();
    }
}

impl Group {
    /// The number is the group's own as long as its leader is not buried, and the worker tells us that the group is gone
    /// before it lets go of a number that nobody holds any more. What is left is a worker that died or was stopped just
    /// in between, or whose successor as parent has buried the leader: numbers come round again, after 32,768 processes on
    /// a small machine. Whoever bears the number now, and has started after we were told of it, is somebody else.
    fn kill(&self) {
        let is_somebody_else =
            started_at(self.leader).is_some_and(|start| start > ticks(self.told_at));
        if !is_somebody_else {
            // An error only says that nobody is left.
            let _nobody_left = killpg(self.leader, Signal::SIGKILL);
        }
    }
}

/// `/proc` counts in hundredths of a second, whatever the kernel's own tick is.
fn ticks(nanoseconds: u64) -> u64 {
    nanoseconds / 10_000_000
}

/// When a process was started, in ticks since the machine was; `None` when there is no such process. See `proc(5)`.
fn started_at(process: Pid) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second field is a name in parentheses that may have spaces and parentheses itself; the start is the 22nd.
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Into the worker's own log, if anybody still reads it.
fn say(words: &str) {
    let _nobody_reads = writeln!(io::stderr(), "pinwheel warden: {words}");
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::process::CommandExt,
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn a_process_has_started_before_it_was_told_of() {
        let start = started_at(Pid::this()).expect("we run");
        assert!(start <= ticks(nanoseconds(ClockId::CLOCK_BOOTTIME)));
        assert_eq!(started_at(Pid::from_raw(i32::MAX)), None);
    }

    #[test]
    fn a_number_that_has_come_round_to_somebody_else_is_not_killed() {
        let mut stranger = Command::new("/bin/sh")
            .args(["-c", "read word"])
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let _stays_open = stranger.stdin.take();
        let leader = Pid::from_raw(stranger.id().try_into().unwrap());
        Group { leader, told_at: 0 }.kill();
        assert!(stranger.try_wait().unwrap().is_none(), "it came later");
        let told_at = nanoseconds(ClockId::CLOCK_BOOTTIME);
        Group { leader, told_at }.kill();
        assert!(!stranger.wait().unwrap().success());
    }
}
