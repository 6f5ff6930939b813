//! The process of a try: how it starts, how it is told to stop, and what its end means.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use chrono::SecondsFormat;
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    Argument, Job, Shell,
    output::{self, Left, Streamed},
    scratch::Scratch,
};
use crate::{
    Context, Failure, FailureClass, LogStream, Outcome,
    warden::{self, Ward},
};

/// What of the worker's own environment a process gets to see, besides its PATH.
const INHERITED: [&str; 4] = ["HOME", "LANG", "TZ", "TMPDIR"];
/// Longer last words are cut in messages; the log has them in full.
const LAST_WORDS_CHARACTERS: usize = 300;

/// Runs one process to its end.
pub(super) async fn run(context: &Context, job: Job, shell: &Shell) -> Result<Outcome, Failure> {
    if let Some(directory) = &job.directory {
        check_directory(directory).await?;
    }
    let mut scratch = shell.scratches.take(&context.instance.params)?;
    let ended = run_in(context, &job, shell, &mut scratch).await;
    scratch.clear().await;
    ended
}

async fn run_in(
    context: &Context,
    job: &Job,
    shell: &Shell,
    scratch: &mut Scratch,
) -> Result<Outcome, Failure> {
    let drain = shell.drain;
    let files = scratch.give(&job.files)?;
    // Announced before it starts: from then on it cannot escape the end of this worker.
    let ward = shell.warden.as_ref().map(|warden| warden.begin());
    let mut child = match spawn(context, job, &files, scratch, ward.as_ref()) {
        Ok(child) => child,
        Err(error) => {
            if let Some(ward) = ward {
                ward.end();
            }
            return Err(not_started(job, &error));
        }
    };
    let mut group = Group::of(&child, ward);
    let exited = CancellationToken::new();
    let mut streams = JoinSet::new();
    if let Some(stdout) = child.stdout.take() {
        let log = context.log.clone();
        let stream = output::stream(stdout, LogStream::Stdout, log, exited.clone(), drain);
        streams.spawn(async move { (LogStream::Stdout, stream.await) });
    }
    if let Some(stderr) = child.stderr.take() {
        let log = context.log.clone();
        let stream = output::stream(stderr, LogStream::Stderr, log, exited.clone(), drain);
        streams.spawn(async move { (LogStream::Stderr, stream.await) });
    }

    let ended = tokio::select! {
        biased;
        () = context.cancel.cancelled() => {
            stop(context, job, &mut child, &mut group).await;
            Err(Failure { class: FailureClass::Cancelled, ..Failure::permanent(format!("{} was stopped", job.called)) })
        }
        status = child.wait() => {
            group.manner = Manner::ByItself;
            group.leader_is_buried();
            Ok(status)
        }
    };
    // What the task has left running may still be passing on its last words; after that it ends with the task.
    let mut last_words = Finished::default();
    let still_open = tokio::time::timeout(drain, finish(&mut streams, &mut last_words))
        .await
        .is_err();
    group.end();
    exited.cancel();
    if still_open {
        tokio::select! {
            biased;
            () = finish(&mut streams, &mut last_words) => {}
            // Whoever cancels does not wait for the log.
            () = context.cancel.cancelled() => {}
        }
    }
    if last_words.left == Some(Left::Open) {
        scratch.is_held();
        context
            .log
            .say("a process that it left behind keeps its output open; no longer reading it")
            .await;
    }
    let status = ended?.map_err(|error| {
        Failure::retryable(format!("the process could not be awaited: {error}"))
    })?;
    if status.success() {
        return Ok(Outcome::Success {
            output: output::read(scratch.output())?,
        });
    }
    Err(failure(job, status, last_words.last_line))
}

#[derive(Default)]
struct Finished {
    last_line: Option<String>,
    left: Option<Left>,
}

/// Awaits both streams. Being dropped half-way loses nothing: the set keeps what has not been taken yet.
async fn finish(streams: &mut JoinSet<(LogStream, Streamed)>, finished: &mut Finished) {
    while let Some(joined) = streams.join_next().await {
        let Ok((name, Streamed { last_line, left })) = joined else {
            continue;
        };
        if name == LogStream::Stderr {
            finished.last_line = last_line;
        }
        if left == Left::Open {
            finished.left = Some(left);
        }
    }
}

fn spawn(
    context: &Context,
    job: &Job,
    files: &[PathBuf],
    scratch: &Scratch,
    ward: Option<&Ward>,
) -> io::Result<Child> {
    let path = job.path();
    if let Some(program) = find(&job.program, &path) {
        let mut command = command(
            program.as_os_str(),
            context,
            job,
            files,
            scratch,
            &path,
            ward,
        );
        if let Ok(child) = command.arg0(&job.program).spawn() {
            return Ok(child);
        }
        // The usual way finds out what to say about it, or knows better, such as with a script without its first line.
    }
    command(
        OsStr::new(&job.program),
        context,
        job,
        files,
        scratch,
        &path,
        ward,
    )
    .spawn()
}

/// Where the program is that PATH names. The standard library starts a path by `posix_spawn`, but a name that is to be
/// looked for in another PATH than our own by `fork`, which first copies the page tables of the whole worker and then has
/// both sides fault on every page they touch.
fn find(program: &str, path: &OsStr) -> Option<PathBuf> {
    if program.contains('/') {
        return None;
    }
    for folder in std::env::split_paths(path) {
        // It would mean the directory that the process is to start in.
        if !folder.is_absolute() {
            return None;
        }
        let candidate = folder.join(program);
        if fs::metadata(&candidate)
            .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
        {
            return Some(candidate);
        }
    }
    None
}

fn command(
    program: &OsStr,
    context: &Context,
    job: &Job,
    files: &[PathBuf],
    scratch: &Scratch,
    path: &OsStr,
    ward: Option<&Ward>,
) -> Command {
    let instance = &context.instance;
    let mut command = Command::new(program);
    command
        .args(job.arguments.iter().map(|argument| match argument {
            Argument::Text(text) => OsStr::new(text),
            Argument::File(number) => files[*number].as_os_str(),
        }))
        .env_clear()
        .envs(
            INHERITED
                .iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        )
        .env("PINWHEEL_DAG_ID", &instance.dag_id)
        .env("PINWHEEL_RUN_ID", instance.run_id.to_string())
        .env("PINWHEEL_TASK_ID", &instance.task_id)
        .env("PINWHEEL_TRY_NUMBER", instance.try_number.to_string())
        .env("PINWHEEL_PARAMS", scratch.params())
        .env("PINWHEEL_OUTPUT", scratch.output())
        .envs(job.environment.iter().map(|(name, value)| (name, value)))
        .env("PATH", path)
        .current_dir(job.directory.as_deref().unwrap_or(scratch.directory()))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for (given, file) in job.files.iter().zip(files) {
        if let Some(variable) = given.variable {
            command.env(variable, file);
        }
    }
    for (name, instant) in [
        ("PINWHEEL_LOGICAL_DATE", instance.logical_date),
        ("PINWHEEL_DATA_INTERVAL_START", instance.data_interval_start),
        ("PINWHEEL_DATA_INTERVAL_END", instance.data_interval_end),
    ] {
        command.env(name, instant.to_rfc3339_opts(SecondsFormat::AutoSi, true));
    }
    if let Some(ward) = ward {
        command.env(warden::MARK, ward.mark());
    }
    command
}

async fn check_directory(directory: &Path) -> Result<(), Failure> {
    let problem = match tokio::fs::metadata(directory).await {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => "is not a directory".to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => "does not exist".to_owned(),
        Err(error) => format!("cannot be used: {error}"),
    };
    Err(Failure::permanent(format!(
        "the directory `{}` in `cwd` {problem}",
        directory.display()
    ))
    .with_hint("name a directory that exists on every worker that serves the task's queue"))
}

fn not_started(job: &Job, error: &io::Error) -> Failure {
    let program = &job.program;
    match error.kind() {
        io::ErrorKind::NotFound => Failure::permanent(format!("the program `{program}` was not found"))
            .with_hint("install it on every worker that serves the task's queue, or give its whole path"),
        io::ErrorKind::PermissionDenied => Failure::permanent(format!("the program `{program}` may not be executed"))
            .with_hint("check its permissions for the user that runs the worker"),
        io::ErrorKind::ArgumentListTooLong => {
            Failure::permanent(format!("the arguments and environment of `{program}` are too long"))
                .with_hint("pass large values in a file; the run's params are in the one that `PINWHEEL_PARAMS` names")
        }
        io::ErrorKind::InvalidInput => Failure::permanent(format!("the program `{program}` cannot be started: {error}")),
        _ => Failure::retryable(format!("the program `{program}` could not be started: {error}")),
    }
}

/// Asks the whole group to end, and kills it when it has not done so in time.
async fn stop(context: &Context, job: &Job, child: &mut Child, group: &mut Group) {
    group.signal(Signal::SIGTERM);
    if tokio::time::timeout(job.kill_after, child.wait())
        .await
        .is_ok()
    {
        group.leader_is_buried();
        return;
    }
    // Before the leader is buried: until then the number is the group's own.
    group.end();
    let _gone = child.wait().await;
    let after = crate::duration::text(job.kill_after);
    let words = format!(
        "{} was still there {after} after SIGTERM and was killed",
        job.called
    );
    // The log may be what is stuck; nobody waits for these words.
    let _said = tokio::time::timeout(Duration::from_millis(100), context.log.say(words)).await;
}

fn failure(job: &Job, status: ExitStatus, last_words: Option<String>) -> Failure {
    let last_words = last_words
        .map(|words| format!(": {}", shorten(&words)))
        .unwrap_or_default();
    let called = &job.called;
    if let Some(number) = status.signal() {
        let signal = Signal::try_from(number)
            .map_or_else(|_| format!("signal {number}"), |signal| signal.to_string());
        let failure = Failure {
            class: FailureClass::Killed,
            ..Failure::retryable(format!("{called} was killed by {signal}{last_words}"))
        };
        return if number == Signal::SIGKILL as i32 {
            failure.with_hint("if nobody killed it, the machine may have been out of memory")
        } else {
            failure
        };
    }
    let code = status.code();
    let shown = code.map_or_else(
        || "an unknown code".to_owned(),
        |code| format!("code {code}"),
    );
    let failure = Failure {
        exit_code: code,
        ..Failure::retryable(format!("{called} exited with {shown}{last_words}"))
    };
    match code {
        Some(127) => {
            failure.with_hint("127 usually means that a command was not found on the worker")
        }
        Some(126) => failure.with_hint("126 usually means that a command may not be executed"),
        _ => failure,
    }
}

fn shorten(words: &str) -> String {
    let mut short: String = words.chars().take(LAST_WORDS_CHARACTERS).collect();
    if short.len() < words.len() {
        short.push('…');
    }
    short
}

/// The process group of a try. Whatever is left of it is killed when this is dropped, so nothing survives a try that was
/// given up.
///
/// The kernel gives the number to nobody else while the leader is not buried or somebody is in the group.
struct Group {
    leader: Option<Pid>,
    is_leader_buried: bool,
    ward: Option<Ward>,
    manner: Manner,
}

/// How a try comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// What it has left behind on purpose, in a session of its own, may stay.
    ByItself,
    /// Nothing of it may go on, wherever it is.
    GivenUp,
}

impl Group {
    fn of(child: &Child, ward: Option<Ward>) -> Self {
        let leader = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .map(Pid::from_raw);
        if let (Some(ward), Some(leader)) = (&ward, leader) {
            ward.leads(leader);
        }
        Self {
            leader,
            is_leader_buried: false,
            ward,
            manner: Manner::GivenUp,
        }
    }

    fn signal(&self, signal: Signal) {
        let Some(leader) = self.leader else { return };
        // Somebody bears the number of the buried: the last of the group went by itself meanwhile, and numbers have come
        // round.
        if self.is_leader_buried && kill(leader, None) != Err(Errno::ESRCH) {
            return;
        }
        // An error only says that nobody is left to hear it.
        let _nobody_left = killpg(leader, signal);
    }

    /// Lets go of the number at once when nobody is left in the group, as with nearly every task.
    fn leader_is_buried(&mut self) {
        self.is_leader_buried = true;
        if let Some(leader) = self.leader
            && killpg(leader, None) == Err(Errno::ESRCH)
        {
            self.leader = None;
            self.end();
        }
    }

    /// Once, because the number may belong to somebody else later.
    fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.leader = None;
    }

    /// Nothing of the group is left after this.
    fn end(&mut self) {
        self.kill();
        if let Some(ward) = self.ward.take() {
            match self.manner {
                Manner::ByItself => ward.end(),
                Manner::GivenUp => drop(ward),
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}
