//! The process of a try: how it starts, how it is told to stop, and what its end means.

use std::{
    io,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use chrono::SecondsFormat;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    Job,
    output::{self, Left, Streamed},
};
use crate::{Context, Failure, FailureClass, LogStream, Outcome};

/// What of the worker's own environment a process gets to see.
const INHERITED: [&str; 5] = ["PATH", "HOME", "LANG", "TZ", "TMPDIR"];
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Longer last words are cut in messages; the log has them in full.
const LAST_WORDS_CHARACTERS: usize = 300;

/// Runs one process to its end.
pub(super) async fn run(context: &Context, job: Job, drain: Duration) -> Result<Outcome, Failure> {
    let scratch = Scratch::new(context).await?;
    if let Some(directory) = &job.directory {
        check_directory(directory).await?;
    }
    let mut child = command(context, &job, &scratch)
        .spawn()
        .map_err(|error| not_started(&job, &error))?;
    let mut group = Group::of(&child);
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
            stop(context, &job, &mut child, &mut group).await;
            Err(Failure { class: FailureClass::Cancelled, ..Failure::permanent(format!("{} was stopped", job.called)) })
        }
        status = child.wait() => Ok(status),
    };
    // What the task has left running may still be passing on its last words; after that it ends with the task.
    let mut last_words = Finished::default();
    let still_open = tokio::time::timeout(drain, finish(&mut streams, &mut last_words))
        .await
        .is_err();
    group.kill();
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
            output: output::read(&scratch.output()).await?,
        });
    }
    Err(failure(&job, status, last_words.last_line))
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

fn command(context: &Context, job: &Job, scratch: &Scratch) -> Command {
    let instance = &context.instance;
    let mut command = Command::new(&job.program);
    command
        .args(&job.arguments)
        .env_clear()
        .env("PATH", PATH)
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
        .current_dir(job.directory.as_deref().unwrap_or(&scratch.directory))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for (name, instant) in [
        ("PINWHEEL_LOGICAL_DATE", instance.logical_date),
        ("PINWHEEL_DATA_INTERVAL_START", instance.data_interval_start),
        ("PINWHEEL_DATA_INTERVAL_END", instance.data_interval_end),
    ] {
        command.env(name, instant.to_rfc3339_opts(SecondsFormat::AutoSi, true));
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
        return;
    }
    group.kill();
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
struct Group {
    leader: Option<Pid>,
}

impl Group {
    fn of(child: &Child) -> Self {
        let leader = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .map(Pid::from_raw);
        Self { leader }
    }

    fn signal(&self, signal: Signal) {
        if let Some(leader) = self.leader {
            // An error only says that nobody is left to hear it.
            let _nobody_left = killpg(leader, signal);
        }
    }

    /// Once, because the number may belong to somebody else later.
    fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.leader = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A directory of the try's own, readable by nobody else, gone when the try is.
struct Scratch {
    directory: PathBuf,
}

impl Scratch {
    async fn new(context: &Context) -> Result<Self, Failure> {
        let directory =
            std::env::temp_dir().join(format!("pinwheel-{}", uuid::Uuid::new_v4().simple()));
        let refuse = |error: io::Error| {
            Failure::retryable(format!("a temporary directory could not be made: {error}"))
                .with_hint(
                    "check the free space and the permissions of the worker's temporary directory",
                )
        };
        tokio::fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .await
            .map_err(refuse)?;
        let scratch = Self { directory };
        let params = serde_json::Value::Object(context.instance.params.clone()).to_string();
        tokio::fs::write(scratch.params(), params)
            .await
            .map_err(refuse)?;
        Ok(scratch)
    }

    fn params(&self) -> PathBuf {
        self.directory.join("params.json")
    }

    fn output(&self) -> PathBuf {
        self.directory.join("output.json")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A few small files; what cannot be removed is left to the system's own clean-up.
        let _left_behind = std::fs::remove_dir_all(&self.directory);
    }
}
