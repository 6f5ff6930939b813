//! Real processes. Nothing waits by the clock: a process says that it is ready by a line of its log, and holds on by
//! reading from a FIFO that nobody writes to.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, sync::Arc};

use chrono::{DateTime, Utc};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    CursorMove, CursorPosition, Durable, DurableError, FailureClass, Instance, Log, LogStream,
    NoConnections, warden,
};

type Lines = mpsc::Receiver<(DateTime<Utc>, LogStream, String)>;

/// A task that uses durable state here does what it should not.
struct Nothing;

#[async_trait]
impl Durable for Nothing {
    async fn freeze(&self, _name: &str, _value: Value) -> Result<Value, DurableError> {
        Err(DurableError::Fenced)
    }

    async fn frozen(&self, _name: &str) -> Result<Option<Value>, DurableError> {
        Err(DurableError::Fenced)
    }

    async fn cursor(&self, _cursor: &str) -> Result<BTreeMap<i32, CursorPosition>, DurableError> {
        Err(DurableError::Fenced)
    }

    async fn advance(
        &self,
        _cursor: &str,
        _plan: &str,
        _moves: &[CursorMove],
    ) -> Result<(), DurableError> {
        Err(DurableError::Fenced)
    }
}

pub(crate) fn table(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(table) => table,
        other => panic!("{other} is not a table"),
    }
}

pub(crate) fn context(params: Value) -> (Context, Lines) {
    context_with_log(params, 10_000)
}

fn context_with_log(params: Value, capacity: usize) -> (Context, Lines) {
    let (log, lines) = Log::channel(capacity);
    let date = |text: &str| text.parse::<DateTime<Utc>>().expect("it is a date");
    let instance = Instance {
        dag_id: "pins".to_owned(),
        run_id: 7,
        task_id: "print".to_owned(),
        instance_id: 70,
        try_number: 2,
        logical_date: date("2026-01-01T02:00:00Z"),
        data_interval_start: date("2026-01-01T02:00:00Z"),
        data_interval_end: date("2026-01-02T02:00:00Z"),
        params: table(params),
    };
    let context = Context {
        instance: Arc::new(instance),
        log,
        cancel: CancellationToken::new(),
        durable: Arc::new(Nothing),
        orchestrator: Arc::new(crate::Alone),
        connections: Arc::new(NoConnections),
        resume: None,
    };
    (context, lines)
}

async fn run(with: Value) -> (Result<Outcome, Failure>, Vec<(LogStream, String)>) {
    let (context, lines) = context(json!({"n": 1}));
    let result = Shell::default().run(&context, table(with)).await;
    drop(context);
    (result, collect(lines).await)
}

async fn collect(mut lines: Lines) -> Vec<(LogStream, String)> {
    let mut all = Vec::new();
    while let Some((_, stream, line)) = lines.recv().await {
        all.push((stream, line));
    }
    all
}

fn said(stream: LogStream, lines: &[&str]) -> Vec<(LogStream, String)> {
    lines
        .iter()
        .map(|line| (stream, (*line).to_owned()))
        .collect()
}

async fn wait_for(lines: &mut Lines, wanted: &str) -> String {
    loop {
        let (_, _, line) = lines
            .recv()
            .await
            .expect("the process ended without a word");
        if let Some(rest) = line.strip_prefix(wanted) {
            return rest.trim().to_owned();
        }
    }
}

/// Whether a process with this number is there and not a zombie that nobody has buried yet.
fn lives(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .trim_start()
            .starts_with(['Z', 'X'])
    })
}

/// A killed process takes a moment to go; whoever asks again lets it.
async fn is_gone(pid: &str) {
    while lives(pid) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn arguments_reach_the_program_as_they_are() {
    let (result, lines) =
        run(json!({"command": ["printf", "%s\\n", "a b", "$(id); `id` 'x'", "ünï", ""]})).await;
    assert_eq!(result, Ok(Outcome::success()));
    assert_eq!(
        lines,
        said(LogStream::Stdout, &["a b", "$(id); `id` 'x'", "ünï", ""])
    );
}

#[tokio::test]
async fn a_script_gets_its_values_by_environment_and_writes_its_output() {
    let script = r#"
        printf '{"name": "%s", "try": %s, "params": %s}' "$NAME" "$PINWHEEL_TRY_NUMBER" "$(cat "$PINWHEEL_PARAMS")" > "$PINWHEEL_OUTPUT"
        echo "$PINWHEEL_DAG_ID $PINWHEEL_RUN_ID $PINWHEEL_TASK_ID $PINWHEEL_LOGICAL_DATE $PINWHEEL_DATA_INTERVAL_END $0" >&2
    "#;
    let (result, lines) = run(json!({"script": script, "env": {"NAME": "a'b $HOME"}})).await;
    let output = json!({"name": "a'b $HOME", "try": 2, "params": {"n": 1}});
    assert_eq!(result, Ok(Outcome::Success { output }));
    assert_eq!(
        lines,
        said(
            LogStream::Stderr,
            &["pins 7 print 2026-01-01T02:00:00Z 2026-01-02T02:00:00Z script"]
        )
    );
}

#[tokio::test]
async fn the_worker_own_environment_is_not_seen() {
    let (result, lines) = run(json!({"command": ["env"], "env": {"MINE": "yes"}})).await;
    assert_eq!(result, Ok(Outcome::success()));
    let names: Vec<&str> = lines
        .iter()
        .filter_map(|(_, line)| line.split('=').next())
        .collect();
    for name in &names {
        let known = name.starts_with("PINWHEEL_")
            || ["PATH", "HOME", "LANG", "TZ", "TMPDIR", "MINE"].contains(name);
        assert!(known, "{name} was seen");
    }
    assert!(names.contains(&"MINE") && names.contains(&"PATH"));
}

#[tokio::test]
async fn a_script_stops_at_its_first_error_and_the_message_has_its_last_words() {
    let (result, _) =
        run(json!({"script": "echo before; echo 'disk is full' >&2; (exit 3); echo after"})).await;
    let failure = result.expect_err("it exits with 3");
    assert_eq!(
        (failure.class, failure.exit_code),
        (FailureClass::Retryable, Some(3))
    );
    assert_eq!(
        failure.message,
        "the script exited with code 3: disk is full"
    );
    let (result, _) = run(json!({"script": "echo $UNKNOWN_NAME"})).await;
    assert!(
        result
            .expect_err("-u refuses unset names")
            .message
            .contains("UNKNOWN_NAME")
    );
}

#[tokio::test]
async fn a_process_that_is_killed_names_the_signal() {
    let (result, _) = run(json!({"script": "kill -KILL $$"})).await;
    let failure = result.expect_err("it is killed");
    assert_eq!(
        (failure.class, failure.message.as_str()),
        (FailureClass::Killed, "the script was killed by SIGKILL")
    );
    assert!(failure.hint.is_some());
}

#[tokio::test]
async fn what_can_never_start_is_permanent() {
    for (with, message) in [
        (
            json!({"command": ["no-such-program-here"]}),
            "the program `no-such-program-here` was not found",
        ),
        (
            json!({"command": ["/etc/passwd"]}),
            "the program `/etc/passwd` may not be executed",
        ),
        (
            json!({"command": ["true"], "cwd": "/no/such"}),
            "the directory `/no/such` in `cwd` does not exist",
        ),
        (
            json!({"command": ["echo", "a\u{0}b"]}),
            "`command` has a zero byte, which no process can be given",
        ),
        (json!({"command": []}), "`command` is empty"),
        (
            json!({"script": "echo [1] > \"$PINWHEEL_OUTPUT\""}),
            "the output is JSON but not an object",
        ),
    ] {
        let failure = run(with).await.0.expect_err(message);
        assert_eq!(
            (failure.class, failure.message.as_str()),
            (FailureClass::Permanent, message)
        );
    }
    let failure = run(json!({"script": "echo '{' > \"$PINWHEEL_OUTPUT\""}))
        .await
        .0
        .expect_err("it is not JSON");
    assert!(
        failure.message.starts_with("the output is not JSON"),
        "{}",
        failure.message
    );
    let large = "head -c 300000 /dev/zero > \"$PINWHEEL_OUTPUT\"";
    let failure = run(json!({"script": large}))
        .await
        .0
        .expect_err("it is too large");
    assert_eq!(
        failure.message,
        "the output has 300000 bytes, 262144 are allowed"
    );
}

#[tokio::test]
async fn lines_are_kept_whatever_bytes_they_have() {
    let script = r"printf 'one\r\ntwo\377\n'; printf 'nul\000byte\n\nlast without end'";
    let (_, lines) = run(json!({"script": script})).await;
    assert_eq!(
        lines,
        said(
            LogStream::Stdout,
            &[
                "one",
                "two\u{fffd}",
                "nul\u{fffd}byte",
                "",
                "last without end"
            ]
        )
    );
}

#[tokio::test]
async fn a_long_line_is_split_and_no_character_is_cut() {
    let script = "i=0; while [ $i -lt 1000 ]; do printf '%0100d' 0; i=$((i+1)); done; printf x; head -c 65536 /dev/zero | tr '\\0' e | sed 's/e/é/g'; echo";
    let (result, lines) = run(json!({"script": script})).await;
    assert_eq!(result, Ok(Outcome::success()));
    let whole: String = lines.iter().map(|(_, line)| line.as_str()).collect();
    assert_eq!(
        whole,
        format!("{}x{}", "0".repeat(100_000), "é".repeat(65_536))
    );
    assert!(lines.iter().all(|(_, line)| line.len() <= 64 * 1024));
}

#[tokio::test]
async fn a_line_of_just_the_allowed_length_is_one_line() {
    let (_, lines) =
        run(json!({"script": "head -c 65536 /dev/zero | tr '\\0' x; echo; echo next"})).await;
    let lengths: Vec<usize> = lines.iter().map(|(_, line)| line.len()).collect();
    assert_eq!(lengths, [65_536, 4]);
}

#[tokio::test]
async fn a_slow_log_loses_no_line() {
    let (context, mut lines) = context_with_log(json!({}), 1);
    let script = "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done";
    let task = tokio::spawn(async move {
        Shell::default()
            .run(&context, table(json!({"script": script})))
            .await
    });
    let mut expected = 0;
    while let Some((_, _, line)) = lines.recv().await {
        assert_eq!(line, expected.to_string());
        expected += 1;
        tokio::task::yield_now().await;
    }
    assert_eq!(expected, 20_000);
    assert_eq!(task.await.expect("it ends"), Ok(Outcome::success()));
}

#[tokio::test]
async fn a_cancel_ends_the_whole_group() {
    let folder = tempfile::tempdir().expect("a folder");
    let (context, mut lines) = context(json!({}));
    let cancel = context.cancel.clone();
    let script = "mkfifo gate; trap 'echo stopping; exit 0' TERM; (read x < gate) & echo child $!; echo ready $$; wait";
    let with = table(json!({"script": script, "cwd": folder.path().to_str()}));
    let task = tokio::spawn(async move { Shell::default().run(&context, with).await });
    let child = wait_for(&mut lines, "child").await;
    let leader = wait_for(&mut lines, "ready").await;
    assert!(lives(&child) && lives(&leader));
    cancel.cancel();
    wait_for(&mut lines, "stopping").await;
    let failure = task.await.expect("it ends").expect_err("it was cancelled");
    assert_eq!(failure.class, FailureClass::Cancelled);
    is_gone(&leader).await;
    is_gone(&child).await;
}

#[tokio::test]
async fn a_process_that_ignores_sigterm_is_killed() {
    let folder = tempfile::tempdir().expect("a folder");
    let (context, mut lines) = context(json!({}));
    let cancel = context.cancel.clone();
    let script = "mkfifo gate; trap '' TERM; echo ready $$; read x < gate";
    let with =
        table(json!({"script": script, "cwd": folder.path().to_str(), "kill_after": "50ms"}));
    let task = tokio::spawn(async move { Shell::default().run(&context, with).await });
    let leader = wait_for(&mut lines, "ready").await;
    cancel.cancel();
    let failure = task.await.expect("it ends").expect_err("it was cancelled");
    assert_eq!(failure.class, FailureClass::Cancelled);
    wait_for(&mut lines, "the script was still there 50ms after SIGTERM").await;
    is_gone(&leader).await;
}

#[tokio::test]
async fn what_is_left_in_the_background_ends_with_the_task() {
    let folder = tempfile::tempdir().expect("a folder");
    let (context, mut lines) = context(json!({}));
    // It holds both streams open, so the task cannot just read to their end.
    let script = "mkfifo gate; (read x < gate) & echo child $!";
    let with = table(json!({"script": script, "cwd": folder.path().to_str()}));
    let shell = Shell {
        drain: Duration::from_millis(100),
        ..Shell::default()
    };
    assert_eq!(shell.run(&context, with).await, Ok(Outcome::success()));
    let child = wait_for(&mut lines, "child").await;
    is_gone(&child).await;
}

#[tokio::test]
async fn a_process_that_left_its_group_does_not_hold_the_task() {
    let folder = tempfile::tempdir().expect("a folder");
    let gate = folder.path().join("gate");
    let (context, mut lines) = context(json!({}));
    // The script ends once the other process says that it has a session of its own.
    let script =
        "mkfifo gate ready; setsid sh -c 'echo > ready; read x < gate' & read x < ready || true";
    let with = table(json!({"script": script, "cwd": folder.path().to_str()}));
    let shell = Shell {
        drain: Duration::from_millis(200),
        ..Shell::default()
    };
    assert_eq!(shell.run(&context, with).await, Ok(Outcome::success()));
    wait_for(
        &mut lines,
        "a process that it left behind keeps its output open",
    )
    .await;
    // It is not of the group, so it is still there, and goes when it is let go.
    fs::write(&gate, "go\n").expect("it reads");
}

#[tokio::test]
async fn giving_up_a_try_kills_its_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let (context, mut lines) = context(json!({}));
    let script = "mkfifo gate; echo ready $$; read x < gate";
    let with = table(json!({"script": script, "cwd": folder.path().to_str()}));
    let task = tokio::spawn(async move { Shell::default().run(&context, with).await });
    let leader = wait_for(&mut lines, "ready").await;
    task.abort();
    assert!(task.await.expect_err("it was aborted").is_cancelled());
    is_gone(&leader).await;
}

/// The leader's number is not known before, so it is taken out.
fn without_numbers(told: Vec<String>) -> Vec<String> {
    let number = regex::Regex::new(" [0-9]+$").unwrap();
    told.iter()
        .map(|line| number.replace(line, " pid").into_owned())
        .collect()
}

#[tokio::test]
async fn the_warden_hears_of_a_try_before_it_starts_and_when_its_group_is_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    let warden = warden::tests::scribe(folder.path());
    let shell = Shell::guarded_by(warden.clone());
    let (context, mut lines) = context(json!({}));
    let with = table(json!({"script": "echo mark $PINWHEEL_WARDEN"}));
    let told = warden.begin();
    let (name, _) = told
        .mark()
        .rsplit_once('-')
        .map(|(name, number)| (name.to_owned(), number.to_owned()))
        .expect("a name and a number");
    told.end();
    assert_eq!(shell.run(&context, with).await, Ok(Outcome::success()));
    assert_eq!(wait_for(&mut lines, "mark").await, format!("{name}-1"));
    let missing = table(json!({"command": ["no-such-program-here"]}));
    assert!(shell.run(&context, missing).await.is_err());
    drop(shell);
    assert_eq!(
        without_numbers(warden::tests::told(warden, folder.path())),
        ["+0", "+0", "-0", "+1", "@1 pid", "-1", "+2", "-2"]
    );
}

#[tokio::test]
async fn a_try_that_is_cancelled_or_dropped_is_given_up_to_the_warden() {
    let folder = tempfile::tempdir().expect("a folder");
    let warden = warden::tests::scribe(folder.path());
    let shell = Shell::guarded_by(warden.clone());
    let script = "mkfifo gate; echo ready; read x < gate";
    for end in [Cancelled::ByToken, Cancelled::ByDrop] {
        let (context, mut lines) = context(json!({}));
        let cancel = context.cancel.clone();
        let shell = shell.clone();
        let with = table(json!({"script": script}));
        let task = tokio::spawn(async move { shell.run(&context, with).await });
        wait_for(&mut lines, "ready").await;
        match end {
            Cancelled::ByToken => cancel.cancel(),
            Cancelled::ByDrop => task.abort(),
        }
        let _cancelled = task.await;
    }
    drop(shell);
    assert_eq!(
        without_numbers(warden::tests::told(warden, folder.path())),
        ["+0", "+0", "@0 pid", "!0", "+1", "@1 pid", "!1"]
    );
}

enum Cancelled {
    ByToken,
    ByDrop,
}

#[tokio::test]
async fn a_program_that_path_names_is_called_by_its_name_and_may_lack_its_first_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, mode: u32, text: &str| {
        let file = folder.path().join(name);
        fs::write(&file, text).expect("the folder can be written");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("it is ours");
    };
    write("shown", 0o755, "#!/bin/sh\necho shown\n");
    write("bare", 0o755, "echo bare $1\n");
    write("text", 0o644, "no program");
    let path = format!(
        "relative:/no/such:{}:/bin:/usr/bin",
        folder.path().display()
    );
    for (path, command, said_line) in [
        (
            path.trim_start_matches("relative:"),
            json!(["shown"]),
            "shown",
        ),
        (path.as_str(), json!(["shown"]), "shown"),
        (
            path.trim_start_matches("relative:"),
            json!(["bare", "x"]),
            "bare x",
        ),
    ] {
        let (result, lines) = run(json!({"command": command, "env": {"PATH": path}})).await;
        assert_eq!(result, Ok(Outcome::success()), "{command} in {path}");
        assert_eq!(lines, said(LogStream::Stdout, &[said_line]));
    }
    let (result, lines) = run(json!({"command": ["sh", "-c", "echo $0"]})).await;
    assert_eq!(result, Ok(Outcome::success()));
    assert_eq!(lines, said(LogStream::Stdout, &["sh"]));
    let failure = run(json!({"command": ["text"], "env": {"PATH": path}}))
        .await
        .0
        .expect_err("it may not be executed");
    assert_eq!(failure.message, "the program `text` may not be executed");
}

#[test]
fn a_bad_table_is_refused_when_the_file_is_read() {
    for (with, message) in [
        (json!({}), "neither `command` nor `script` is given"),
        (
            json!({"command": ["a"], "script": "b"}),
            "both `command` and `script` are given",
        ),
        (json!({"command": []}), "`command` is empty"),
        (json!({"command": [" "]}), "`command` names no program"),
        (json!({"script": " \n"}), "`script` is empty"),
        (
            json!({"script": "a", "env": {"1A": "x"}}),
            "`1A` is no name of an environment variable",
        ),
        (
            json!({"script": "a", "env": {"PINWHEEL_OUTPUT": "x"}}),
            "`PINWHEEL_OUTPUT` belongs to Pinwheel",
        ),
    ] {
        let problems = Shell::default().check(&table(with));
        assert_eq!(
            problems
                .iter()
                .map(|problem| problem.message.as_str())
                .collect::<Vec<_>>(),
            [message]
        );
        assert!(problems[0].hint.is_some());
    }
    assert!(
        Shell::default()
            .check(&table(json!({"command": ["{{ params.program }}"]})))
            .is_empty()
    );
}
