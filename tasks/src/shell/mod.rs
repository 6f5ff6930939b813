//! `shell`: runs a program, or a script with `/bin/sh -eu`.
//!
//! Values never reach a shell by string building: `command` is an argument list, a `script` is never templated and gets
//! its values as environment. The process gets a group of its own, and nothing of that group outlives the try; with a
//! [`Warden`] it does not outlive the worker or its lease either. It sees a scrubbed environment: nothing of the worker's
//! own secrets.

mod output;
mod process;
mod scratch;

#[cfg(test)]
pub(crate) mod tests;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use async_trait::async_trait;
use scratch::Scratches;
use serde_json::{Map, Value};

use crate::{
    Context, Failure, Field, FieldType, Kind, Outcome, Outputs, Presence, Problem, Warden, duration,
};

/// The kind `shell`.
#[derive(Debug, Clone)]
pub struct Shell {
    /// How long output is awaited from processes that the task left behind.
    drain: Duration,
    /// Who ends the processes when this process cannot.
    warden: Option<Warden>,
    scratches: Scratches,
}

impl Default for Shell {
    fn default() -> Self {
        Self {
            drain: Duration::from_secs(2),
            warden: None,
            scratches: Scratches::default(),
        }
    }
}

impl Shell {
    /// One whose processes end with this process, however it ends, and with its lease.
    pub fn guarded_by(warden: Warden) -> Self {
        Self {
            warden: Some(warden),
            ..Self::default()
        }
    }
}

pub(crate) const KILL_AFTER: Duration = Duration::from_secs(10);
/// Where a worker without a PATH finds programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What to run, after rendering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) program: String,
    pub(crate) arguments: Vec<Argument>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) directory: Option<PathBuf>,
    pub(crate) kill_after: Duration,
    /// What it finds besides the run's params.
    pub(crate) files: Vec<JobFile>,
    /// What messages call it.
    pub(crate) called: String,
}

/// An argument of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Argument {
    Text(String),
    /// The path of one of the files that it is given, by their order.
    File(usize),
}

/// A file that is written before the process starts and is gone with its directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JobFile {
    pub(crate) name: &'static str,
    pub(crate) text: String,
    /// The environment variable that tells its path.
    pub(crate) variable: Option<&'static str>,
}

impl Job {
    /// Where its program is looked for.
    fn path(&self) -> OsString {
        let given = self
            .environment
            .iter()
            .rev()
            .find(|(name, _)| name == "PATH");
        match given {
            Some((_, path)) => path.into(),
            None => std::env::var_os("PATH").unwrap_or_else(|| PATH.into()),
        }
    }
}

#[async_trait]
impl Kind for Shell {
    fn name(&self) -> &'static str {
        "shell"
    }

    fn summary(&self) -> &'static str {
        "Runs a program with arguments, or a script with `/bin/sh -eu`"
    }

    fn fields(&self) -> &'static [Field] {
        &[
            Field {
                name: "command",
                field_type: FieldType::TextList,
                presence: Presence::Optional {
                    default: "either this or `script`",
                },
                doc: "The program and its arguments; each may be a template and reaches the program as it is",
            },
            Field {
                name: "script",
                field_type: FieldType::Verbatim,
                presence: Presence::Optional {
                    default: "either this or `command`",
                },
                doc: "A script for `/bin/sh -eu`; it is never templated, values reach it by `env`",
            },
            Field {
                name: "env",
                field_type: FieldType::TextTable,
                presence: Presence::Optional { default: "{}" },
                doc: "Environment variables of the process; each value may be a template",
            },
            Field {
                name: "cwd",
                field_type: FieldType::Text,
                presence: Presence::Optional {
                    default: "a temporary directory of the try",
                },
                doc: "The directory the process starts in",
            },
            Field {
                name: "kill_after",
                field_type: FieldType::Duration,
                presence: Presence::Optional { default: "\"10s\"" },
                doc: "How long after SIGTERM a process that is to stop is killed",
            },
        ]
    }

    fn outputs(&self) -> Outputs {
        Outputs::Free
    }

    fn check(&self, with: &Map<String, Value>) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut refuse = |field: Option<&str>, message: &str, hint: &str| {
            problems.push(Problem {
                field: field.map(str::to_owned),
                message: message.to_owned(),
                hint: Some(hint.to_owned()),
            });
        };
        match (with.get("command"), with.get("script")) {
            (None, None) => refuse(
                None,
                "neither `command` nor `script` is given",
                "write `command = [\"program\", \"argument\"]` or `script = \"…\"`",
            ),
            (Some(_), Some(_)) => {
                refuse(
                    Some("script"),
                    "both `command` and `script` are given",
                    "remove one of them",
                );
            }
            (Some(Value::Array(command)), None) => match command.first() {
                None => refuse(
                    Some("command"),
                    "`command` is empty",
                    "its first element is the program",
                ),
                Some(Value::String(program)) if program.trim().is_empty() => {
                    refuse(
                        Some("command"),
                        "`command` names no program",
                        "its first element is the program",
                    );
                }
                Some(_) => {}
            },
            (Some(_), None) => {}
            (None, Some(script)) => {
                if script
                    .as_str()
                    .is_some_and(|script| script.trim().is_empty())
                {
                    refuse(
                        Some("script"),
                        "`script` is empty",
                        "use the kind `noop` for a task that does nothing",
                    );
                }
            }
        }
        problems.extend(check_environment(with));
        problems
    }

    async fn run(&self, context: &Context, with: Map<String, Value>) -> Result<Outcome, Failure> {
        if let Some(problem) = self.check(&with).into_iter().next() {
            let failure = Failure::permanent(problem.message);
            return Err(match problem.hint {
                Some(hint) => failure.with_hint(hint),
                None => failure,
            });
        }
        self.start(context, job(&with)?).await
    }
}

impl Shell {
    /// Runs one process to its end; the output file that it may write becomes the output.
    pub(crate) async fn start(&self, context: &Context, job: Job) -> Result<Outcome, Failure> {
        process::run(context, job, self).await
    }
}

/// What is wrong with the names in `env`.
pub(crate) fn check_environment(with: &Map<String, Value>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut refuse = |message: String, hint: &str| {
        problems.push(Problem {
            field: Some("env".to_owned()),
            message,
            hint: Some(hint.to_owned()),
        });
    };
    for name in with
        .get("env")
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Map::keys)
    {
        if !is_variable(name) {
            refuse(
                format!("`{name}` is no name of an environment variable"),
                "use letters, digits and `_`, not a digit first",
            );
        } else if name.starts_with("PINWHEEL_") {
            refuse(
                format!("`{name}` belongs to Pinwheel"),
                "choose a name without `PINWHEEL_`",
            );
        }
    }
    problems
}

/// The variables that `env` gives.
pub(crate) fn environment(with: &Map<String, Value>) -> Result<Vec<(String, String)>, Failure> {
    match with.get("env") {
        None => Ok(Vec::new()),
        Some(Value::Object(table)) => table
            .iter()
            .map(|(name, value)| Ok((name.clone(), text(&format!("env.{name}"), value)?)))
            .collect(),
        Some(_) => Err(Failure::permanent("`env` is not a table")),
    }
}

fn job(with: &Map<String, Value>) -> Result<Job, Failure> {
    let environment = environment(with)?;
    let directory = match with.get("cwd") {
        None => None,
        Some(directory) => Some(PathBuf::from(text("cwd", directory)?)),
    };
    let kill_after = match with.get("kill_after") {
        None => KILL_AFTER,
        Some(kill_after) => duration::parse(&text("kill_after", kill_after)?)
            .map_err(|error| Failure::permanent(error.message).with_hint(error.hint))?,
    };
    let (program, arguments, called) = match (with.get("script"), with.get("command")) {
        (Some(script), _) => {
            let script = text("script", script)?;
            // The name after the script is `$0`.
            let arguments = vec![
                "-eu".to_owned(),
                "-c".to_owned(),
                script,
                "script".to_owned(),
            ];
            ("/bin/sh".to_owned(), arguments, "the script".to_owned())
        }
        (None, Some(Value::Array(command))) => {
            let mut words = command
                .iter()
                .map(|word| text("command", word))
                .collect::<Result<Vec<_>, _>>()?;
            if words
                .first()
                .is_none_or(|program| program.trim().is_empty())
            {
                return Err(Failure::permanent("`command` names no program"));
            }
            let program = words.remove(0);
            let called = format!("`{program}`");
            (program, words, called)
        }
        (None, _) => return Err(Failure::permanent("`command` is not a list")),
    };
    Ok(Job {
        program,
        arguments: arguments.into_iter().map(Argument::Text).collect(),
        environment,
        directory,
        kill_after,
        files: Vec::new(),
        called,
    })
}

/// A rendered value as text. A template keeps its type, so a number or a truth value is written out here.
pub(crate) fn text(field: &str, value: &Value) -> Result<String, Failure> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::Null => String::new(),
        Value::Array(_) | Value::Object(_) => value.to_string(),
    };
    if text.contains('\0') {
        return Err(Failure::permanent(format!(
            "`{field}` has a zero byte, which no process can be given"
        )));
    }
    Ok(text)
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
