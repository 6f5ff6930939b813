//! The warden on a thread with real processes to kill, and the worker's end with a program that only writes down what it is
//! told.

use std::{
    fs,
    io::{PipeWriter, pipe},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::ChildStdin,
    thread::JoinHandle,
};

use super::*;

/// A warden that writes what it is told to `told` in `folder`.
pub(crate) fn scribe(folder: &Path) -> Warden {
    let told = folder.join("told");
    Warden::new(
        "/bin/sh",
        ["-c", "exec cat >> \"$0\"", told.to_str().unwrap()],
    )
}

/// Lets go of a scribe and returns what it was told, without its name and the moments of trust.
pub(crate) fn told(warden: Warden, folder: &Path) -> Vec<String> {
    let mut scribe = child(&warden);
    drop(warden);
    scribe.wait().unwrap();
    let told = fs::read_to_string(folder.join("told")).unwrap();
    told.lines()
        .filter(|line| !line.starts_with(['#', '=']))
        .map(str::to_owned)
        .collect()
}

fn child(warden: &Warden) -> Child {
    let mut state = warden.shared.state();
    state.helper.as_mut().unwrap().child.take().unwrap()
}

/// The warden's own code, watching what is written to the pipe.
fn watched() -> (PipeWriter, JoinHandle<()>) {
    let (mut reading, mut writing) = pipe().unwrap();
    let warden = thread::spawn(move || serve::watch(&mut reading));
    tell(&mut writing, &[Message::Name("abc".to_owned())]);
    (writing, warden)
}

fn tell(pipe: &mut PipeWriter, messages: &[Message]) {
    let lines: String = messages.iter().map(ToString::to_string).collect();
    pipe.write_all(lines.as_bytes()).unwrap();
}

/// A process that waits for a word that nobody says, and ends with its test at the latest.
struct Process {
    child: Child,
    _nobody_says: ChildStdin,
}

impl Process {
    fn marked(mark: &str) -> Self {
        let mut child = Command::new("/bin/sh")
            .args(["-c", "read word"])
            .env(MARK, mark)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        // Or waiting for it would close it.
        let stdin = child.stdin.take().unwrap();
        Self {
            child,
            _nobody_says: stdin,
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    fn was_killed(mut self) -> bool {
        self.child.wait().unwrap().signal() == Some(9)
    }

    /// For processes that nobody has killed.
    fn lives(mut self) -> bool {
        let lives = self.child.try_wait().unwrap().is_none();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        lives
    }
}

#[test]
fn the_end_of_the_pipe_ends_every_group_and_whatever_bears_the_mark_of_a_running_try() {
    let (mut pipe, warden) = watched();
    let group = Process::marked("none");
    let untold = Process::marked("abc-2");
    let deliberate = Process::marked("abc-3");
    let elsewhere = Process::marked("abd-2");
    let over = Process::marked("abc-4");
    tell(
        &mut pipe,
        &[
            Message::Begin(1),
            Message::Leads(1, group.pid()),
            Message::Begin(2),
            Message::Begin(4),
            Message::Leads(4, over.pid()),
            Message::Over(4),
        ],
    );
    drop(pipe);
    assert!(group.was_killed(), "it was told of");
    assert!(untold.was_killed(), "its try was announced");
    warden.join().unwrap();
    assert!(deliberate.lives(), "its try is not running");
    assert!(elsewhere.lives(), "it is another worker's");
    assert!(over.lives(), "its try is over");
}

#[test]
fn a_lease_that_is_over_ends_what_runs_and_a_renewed_one_lets_later_tries_run() {
    let (mut pipe, warden) = watched();
    let first = Process::marked("abc-1");
    tell(
        &mut pipe,
        &[
            Message::Trust(Moment(u64::MAX)),
            Message::Begin(1),
            Message::Leads(1, first.pid()),
            Message::Trust(Moment(0)),
        ],
    );
    assert!(first.was_killed());
    let late = Process::marked("abc-2");
    tell(
        &mut pipe,
        &[Message::Begin(2), Message::Leads(2, late.pid())],
    );
    assert!(late.was_killed(), "it came after the end");

    let trusted = Process::marked("abc-3");
    let given_up = Process::marked("abc-4");
    tell(
        &mut pipe,
        &[
            Message::Over(1),
            Message::Over(2),
            Message::Trust(Moment(u64::MAX)),
            Message::Begin(3),
            Message::Leads(3, trusted.pid()),
            Message::Begin(4),
            Message::GivenUp(4),
        ],
    );
    // It is looked for when the pipe is silent, which is also when the lease would be enforced.
    assert!(given_up.was_killed());
    tell(&mut pipe, &[Message::Over(3)]);
    drop(pipe);
    warden.join().unwrap();
    assert!(trusted.lives());
}

#[test]
fn an_expired_worker_that_dies_leaves_nothing_either() {
    let (mut pipe, warden) = watched();
    let first = Process::marked("abc-1");
    tell(
        &mut pipe,
        &[
            Message::Begin(1),
            Message::Leads(1, first.pid()),
            Message::Trust(Moment(0)),
        ],
    );
    assert!(first.was_killed());
    let second = Process::marked("abc-1");
    drop(pipe);
    assert!(second.was_killed());
    warden.join().unwrap();
}

#[test]
fn the_worker_end_says_what_begins_leads_and_ends_in_this_order() {
    let folder = tempfile::tempdir().unwrap();
    let warden = scribe(folder.path());
    let first = warden.begin();
    let second = warden.begin();
    assert_ne!(first.mark(), second.mark());
    first.leads(Pid::from_raw(4711));
    warden.trust_until(Instant::now());
    first.end();
    drop(second);
    assert_eq!(
        told(warden, folder.path()),
        // The first message starts the warden, which is told everything first.
        ["+0", "+0", "+1", "@0 4711", "-0", "!1"]
    );
}

#[test]
fn a_warden_that_ends_is_replaced_by_one_that_is_told_everything() {
    let folder = tempfile::tempdir().unwrap();
    let warden = scribe(folder.path());
    let first = warden.begin();
    first.leads(Pid::from_raw(4711));
    let second = warden.begin();
    let third = warden.begin();
    third.end();
    let mut ended = child(&warden);
    ended.kill().unwrap();
    ended.wait().unwrap();
    fs::write(folder.path().join("told"), "").unwrap();
    // It is only started again when the last start was a while ago.
    warden.shared.state().started = None;
    warden.trust_until(Instant::now());
    let mut replacement = child(&warden);
    warden.shared.state().helper = None;
    replacement.wait().unwrap();
    let lines = fs::read_to_string(folder.path().join("told")).unwrap();
    let until = warden.shared.state().trusted_until.unwrap().0;
    let name = &warden.shared.name;
    assert_eq!(
        lines,
        format!("#{name}\n={until}\n+0\n@0 4711\n+1\n={until}\n")
    );
    drop((first, second));
}

#[test]
fn a_warden_that_hangs_does_not_hang_the_worker_and_never_comes_to_the_end_of_its_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let ended = folder.path().join("ended");
    let warden = Warden::new(
        "/bin/sh",
        [
            "-c",
            "kill -STOP $$; cat; : > \"$0\"",
            ended.to_str().unwrap(),
        ],
    );
    let running = |warden: &Warden| {
        let state = warden.shared.state();
        state.helper.as_ref()?.child.as_ref().map(Child::id)
    };
    drop(warden.begin());
    let hanging = running(&warden).expect("it was started with the first try");
    while running(&warden) == Some(hanging) {
        warden.begin().end();
    }
    // A stopped process ends in no other way than by being killed.
    while fs::exists(format!("/proc/{hanging}")).unwrap() {
        thread::yield_now();
    }
    assert!(!ended.exists());
}
