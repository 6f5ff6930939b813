//! Finds what bears the mark of a try, wherever it has gone: into another group or session, or to another parent.
//!
//! Every process of a try has the mark in its environment, and whatever it starts inherits it. The mark holds an
//! unguessable name and the number of the try, so only a process that was started by that very try has it.

use std::{
    ffi::OsStr,
    fs,
    os::{linux::fs::MetadataExt, unix::ffi::OsStrExt},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill as send},
    unistd::{Pid, geteuid},
};

use super::{MARK, message::Number};

/// The pause before looking again: what was killed needs a moment to go.
const PAUSE: Duration = Duration::from_millis(1);
/// Something that starts processes faster than it can be killed is given up on; so is one that the kernel does not let go.
const LONGEST: Duration = Duration::from_secs(2);

/// Kills every process of the tries that `is_prey` names, and comes back when none is left.
pub(super) fn kill(name: &str, is_prey: impl Fn(Number) -> bool) {
    let started = Instant::now();
    loop {
        match look(name, &is_prey) {
            Seen::Nothing => return,
            Seen::Prey | Seen::Unborn => {}
        }
        if started.elapsed() > LONGEST {
            return;
        }
        thread::sleep(PAUSE);
    }
}

enum Seen {
    Nothing,
    /// It was killed, and may have had a child since it was looked at.
    Prey,
    /// A process between two programs, which has no environment for a moment.
    Unborn,
}

/// Looks once at every process of our own user. One that we may not look at is not ours to kill.
fn look(name: &str, is_prey: &impl Fn(Number) -> bool) -> Seen {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Seen::Nothing;
    };
    let user = geteuid().as_raw();
    let mut seen = Seen::Nothing;
    for entry in entries.flatten() {
        let Some(process) = number(&entry.file_name()) else {
            continue;
        };
        let folder = entry.path();
        if !fs::metadata(&folder).is_ok_and(|metadata| metadata.st_uid() == user) {
            continue;
        }
        let Ok(environment) = fs::read(folder.join("environ")) else {
            continue;
        };
        if environment.is_empty() {
            if is_between_programs(&folder) && matches!(seen, Seen::Nothing) {
                seen = Seen::Unborn;
            }
        } else if mark(&environment, name).is_some_and(is_prey) {
            // Nothing lies between the look and this but the time a number cannot come round in.
            let _gone_already = send(process, Signal::SIGKILL);
            seen = Seen::Prey;
        }
    }
    seen
}

fn number(file_name: &OsStr) -> Option<Pid> {
    file_name.to_str()?.parse().ok().map(Pid::from_raw)
}

/// The number of the try that an environment belongs to.
fn mark(environment: &[u8], name: &str) -> Option<Number> {
    environment.split(|byte| *byte == 0).find_map(|variable| {
        let value = variable
            .strip_prefix(MARK.as_bytes())?
            .strip_prefix(b"=")?
            .strip_prefix(name.as_bytes())?
            .strip_prefix(b"-")?;
        OsStr::from_bytes(value).to_str()?.parse().ok()
    })
}

/// Whether a process without an environment is just about to get one: the kernel has closed what its old program held
/// (so the pipe has ended) before it lays out the new one. A zombie and a thread of the kernel stay as they are.
fn is_between_programs(folder: &Path) -> bool {
    const KERNEL_THREAD: u64 = 0x0020_0000;
    let Ok(stat) = fs::read_to_string(folder.join("stat")) else {
        return false;
    };
    let Some((_, fields)) = stat.rsplit_once(')') else {
        return false;
    };
    let mut fields = fields.split_ascii_whitespace();
    let is_gone = fields.next().is_none_or(|state| matches!(state, "Z" | "X"));
    let flags: u64 = fields
        .nth(5)
        .and_then(|flags| flags.parse().ok())
        .unwrap_or(KERNEL_THREAD);
    // A process that was really given an empty environment has a command line.
    !is_gone
        && flags & KERNEL_THREAD == 0
        && fs::read(folder.join("cmdline")).is_ok_and(|words| words.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_mark_of_a_try_is_taken_for_it() {
        for (environment, number) in [
            (&b"PATH=/bin\0PINWHEEL_WARDEN=abc-7\0HOME=/\0"[..], Some(7)),
            (
                b"PINWHEEL_WARDEN=abc-18446744073709551615\0",
                Some(u64::MAX),
            ),
            (b"PINWHEEL_WARDEN=abc-7x\0", None),
            (b"PINWHEEL_WARDEN=abcd-7\0", None),
            (b"PINWHEEL_WARDEN=abc\0", None),
            (b"NO_PINWHEEL_WARDEN=abc-7\0", None),
            (b"TEXT=PINWHEEL_WARDEN=abc-7\0", None),
            (b"PINWHEEL_WARDEN_=abc-7\0", None),
            (b"", None),
        ] {
            assert_eq!(mark(environment, "abc"), number, "{environment:?}");
        }
    }
}
