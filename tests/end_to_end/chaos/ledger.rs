//! What tasks say of themselves: every execution appends lines to one file, whatever becomes of its worker.

use std::{collections::BTreeMap, fs, path::Path};

/// One execution of a task, as it told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Execution {
    pub(super) run: i64,
    pub(super) task: String,
    pub(super) try_number: i32,
    /// The process that started it.
    pub(super) worker: String,
    /// No other execution has it.
    pub(super) token: String,
    /// The token of the upstream task whose output it was given.
    pub(super) saw: Option<String>,
    /// Its first and its last sign of life, in nanoseconds since 1970.
    pub(super) began: i64,
    pub(super) last: i64,
    pub(super) end: Option<End>,
}

/// How an execution ended by its own account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Success,
    Failure,
}

/// What every task runs. It lives in steps of a tenth of a second, so that its last sign of life is never much older
/// than its end.
pub(super) const SCRIPT: &str = r#"
worker=${TMPDIR##*/}
token=$$-$(date +%s%N)
tell() {
    printf '%s %s %s %s %s %s %s %s\n' "$PINWHEEL_RUN_ID" "$PINWHEEL_TASK_ID" "$PINWHEEL_TRY_NUMBER" \
        "$worker" "$token" "$SAW" "$1" "$(date +%s%N)" >> "$LEDGER"
}
tell begin
step=0
while [ $step -lt $STEPS ]; do
    sleep 0.1
    tell alive
    step=$((step + 1))
done
if [ "$PINWHEEL_TRY_NUMBER" -lt $WORKS_FROM ]; then
    tell failure
    exit 1
fi
printf '{"token": "%s"}' "$token" > "$PINWHEEL_OUTPUT"
tell success
"#;

/// Reads the file.
///
/// # Errors
/// A line that no task writes.
pub(super) fn read(path: &Path) -> Result<Vec<Execution>, String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    let mut executions: BTreeMap<String, Execution> = BTreeMap::new();
    for line in text.lines() {
        let (execution, word) = parse(line).ok_or_else(|| format!("a torn line: `{line}`"))?;
        match (word, executions.get_mut(&execution.token)) {
            ("begin", None) => {
                executions.insert(execution.token.clone(), execution);
            }
            ("alive", Some(known)) if known.end.is_none() => known.last = execution.last,
            ("success", Some(known)) if known.end.is_none() => {
                known.last = execution.last;
                known.end = Some(End::Success);
            }
            ("failure", Some(known)) if known.end.is_none() => {
                known.last = execution.last;
                known.end = Some(End::Failure);
            }
            _ => return Err(format!("a line out of order: `{line}`")),
        }
    }
    let mut executions: Vec<_> = executions.into_values().collect();
    executions.sort_by_key(|execution| execution.began);
    Ok(executions)
}

fn parse(line: &str) -> Option<(Execution, &str)> {
    let fields: Vec<&str> = line.split(' ').collect();
    let [run, task, try_number, worker, token, saw, word, at] = fields.as_slice() else {
        return None;
    };
    let at = at.parse().ok()?;
    let execution = Execution {
        run: run.parse().ok()?,
        task: (*task).to_owned(),
        try_number: try_number.parse().ok()?,
        worker: (*worker).to_owned(),
        token: (*token).to_owned(),
        saw: (*saw != "-").then(|| (*saw).to_owned()),
        began: at,
        last: at,
        end: None,
    };
    Some((execution, word))
}
