//! The warden on a thread with real processes to kill, and the worker's end with a program that only writes down what it is
//! told.

use std::{
    fs,
    io::{PipeWriter, pipe},
    os::unix::process::ExitStatusExt,
    path::Path,
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

/// A process that waits for a word that nobody says, with a mark.
fn process(mark: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "read word"])
        .env(MARK, mark)
        .stdin(Stdio::piped())
        .process_group(0);
    command
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().try_into().unwrap())
}

fn was_killed(child: &mut Child) -> bool {
    child.wait().unwrap().signal() == Some(9)
}

/// For processes that nobody has killed.
fn lives(mut child: Child) -> bool {
    let lives = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    lives
}

#[test]
fn the_end_of_the_pipe_ends_every_group_and_whatever_bears_the_mark_of_a_running_try() {
    let (mut pipe, warden) = watched();
    let mut group = process("").env_remove(MARK).spawn().unwrap();
    let mut untold = process("abc-2").spawn().unwrap();
    let deliberate = process("abc-3").spawn().unwrap();
    let elsewhere = process("abd-2").spawn().unwrap();
    let over = process("abc-4").spawn().unwrap();
    tell(
        &mut pipe,
        &[
            Message::Begin(1),
            Message::Leads(1, pid(&group)),
            Message::Begin(2),
            Message::Begin(4),
            Message::Leads(4, pid(&over)),
            Message::Over(4),
        ],
    );
    drop(pipe);
    assert!(was_killed(&mut group), "it was told of");
    assert!(was_killed(&mut untold), "its try was announced");
    warden.join().unwrap();
    assert!(lives(deliberate), "its try is not running");
    assert!(lives(elsewhere), "it is another worker's");
    assert!(lives(over), "its try is over");
}

#[test]
fn a_lease_that_is_over_ends_what_runs_and_a_renewed_one_lets_later_tries_run() {
    let (mut pipe, warden) = watched();
    let mut first = process("abc-1").spawn().unwrap();
    tell(
        &mut pipe,
        &[
            Message::Trust(Moment(u64::MAX)),
            Message::Begin(1),
            Message::Leads(1, pid(&first)),
            Message::Trust(Moment(0)),
        ],
    );
    assert!(was_killed(&mut first));
    let mut late = process("abc-2").spawn().unwrap();
    tell(
        &mut pipe,
        &[Message::Begin(2), Message::Leads(2, pid(&late))],
    );
    assert!(was_killed(&mut late), "it came after the end");

    let trusted = process("abc-3").spawn().unwrap();
    let mut given_up = process("abc-4").spawn().unwrap();
    tell(
        &mut pipe,
        &[
            Message::Over(1),
            Message::Over(2),
            Message::Trust(Moment(u64::MAX)),
            Message::Begin(3),
            Message::Leads(3, pid(&trusted)),
            Message::Begin(4),
            Message::GivenUp(4),
        ],
    );
    // It is looked for when the pipe is silent, which is also when the lease would be enforced.
    assert!(was_killed(&mut given_up));
    tell(&mut pipe, &[Message::Over(3)]);
    drop(pipe);
    warden.join().unwrap();
    assert!(lives(trusted));
}

#[test]
fn an_expired_worker_that_dies_leaves_nothing_either() {
    let (mut pipe, warden) = watched();
    let mut first = process("abc-1").spawn().unwrap();
    tell(
        &mut pipe,
        &[
            Message::Begin(1),
            Message::Leads(1, pid(&first)),
            Message::Trust(Moment(0)),
        ],
    );
    assert!(was_killed(&mut first));
    let mut second = process("abc-1").spawn().unwrap();
    drop(pipe);
    assert!(was_killed(&mut second));
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
