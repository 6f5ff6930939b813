//! `python`: runs a script with an interpreter of the user's choice.
//!
//! The script is never a template. It finds values in JSON files, whose paths are in its environment, and writes its own output to
//! one; no package is needed for that. Everything else is as for `shell`: a process group that does not outlive the try, a directory
//! of its own, a scrubbed environment.

use std::path::PathBuf;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use crate::{
    Context, Failure, Field, FieldType, Kind, Outcome, Outputs, Presence, Problem, Shell,
    dag_folder::{self, DagFolder},
    given::Given,
    sensor::written,
    shell::{self, Argument, Job, JobFile, KILL_AFTER},
};

const INTERPRETER: &str = "python3";
/// Its name is seen in tracebacks.
const SCRIPT: &str = "script.py";

const FIELDS: &[Field] = &[
    Field {
        name: "script",
        field_type: FieldType::Verbatim,
        presence: Presence::Optional {
            default: "either this or `file`",
        },
        doc: "The script itself; it is never templated, values reach it by `inputs` and `env`",
    },
    Field {
        name: "file",
        field_type: FieldType::Text,
        presence: Presence::Optional {
            default: "either this or `script`",
        },
        doc: "A script below the DAG folder; it may import what lies beside it",
    },
    Field {
        name: "interpreter",
        field_type: FieldType::Any,
        presence: Presence::Optional {
            default: "\"python3\"",
        },
        doc: "The program that runs the script, or a list of it and its arguments, such as `[\"uv\", \"run\", \"--with\", \"polars\"]`",
    },
    Field {
        name: "arguments",
        field_type: FieldType::TextList,
        presence: Presence::Optional { default: "[]" },
        doc: "Arguments of the script (`sys.argv[1:]`); each may be a template",
    },
    Field {
        name: "inputs",
        field_type: FieldType::Any,
        presence: Presence::Optional { default: "{}" },
        doc: "A table of values for the script, such as `{ land = \"{{ outputs.land }}\" }`; it finds them as JSON in the file that `PINWHEEL_INPUTS` names",
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
];

/// The kind `python`.
#[derive(Debug, Clone)]
pub struct Python {
    shell: Shell,
    folder: DagFolder,
}

impl Python {
    /// One that starts its processes as `shell` does, and finds scripts below a DAG folder.
    pub fn new(shell: Shell, folder: impl Into<PathBuf>) -> Self {
        Self {
            shell,
            folder: DagFolder::new(folder),
        }
    }

    async fn job(&self, context: &Context, with: &Map<String, Value>) -> Result<Job, Failure> {
        let given = Given::new(with);
        let mut words = given
            .texts("interpreter")?
            .unwrap_or_else(|| vec![INTERPRETER.to_owned()])
            .into_iter();
        let program = words
            .next()
            .filter(|program| !program.trim().is_empty())
            .ok_or_else(|| Failure::permanent("`interpreter` names no program"))?;
        let mut arguments: Vec<_> = words.map(Argument::Text).collect();
        let mut files = vec![
            JobFile {
                name: "inputs.json",
                text: Value::Object(given.table("inputs")?).to_string(),
                variable: Some("PINWHEEL_INPUTS"),
            },
            JobFile {
                name: "run.json",
                text: run(context).to_string(),
                variable: Some("PINWHEEL_RUN"),
            },
        ];
        let called = match (given.text("script")?, given.text("file")?) {
            (Some(script), None) => {
                arguments.push(Argument::File(files.len()));
                files.push(JobFile {
                    name: SCRIPT,
                    text: script,
                    variable: None,
                });
                "the script".to_owned()
            }
            (None, Some(file)) => {
                let path = self.folder.find(&file).await?;
                let path = path
                    .into_os_string()
                    .into_string()
                    .map_err(|_| Failure::permanent("the path of the DAG folder is not UTF-8"))?;
                arguments.push(Argument::Text(path));
                format!("`{file}`")
            }
            (None, None) | (Some(_), Some(_)) => {
                return Err(Failure::permanent(
                    "exactly one of `script` and `file` must be given",
                ));
            }
        };
        for word in with
            .get("arguments")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            arguments.push(Argument::Text(shell::text("arguments", word)?));
        }
        // Its words are to be seen when they are said.
        let mut environment = vec![("PYTHONUNBUFFERED".to_owned(), "1".to_owned())];
        environment.extend(shell::environment(with)?);
        Ok(Job {
            program,
            arguments,
            environment,
            directory: given.text("cwd")?.map(PathBuf::from),
            kill_after: given.duration("kill_after")?.unwrap_or(KILL_AFTER),
            files,
            called,
        })
    }
}

/// What a script may want to know about its run.
fn run(context: &Context) -> Value {
    let instance = &context.instance;
    json!({
        "dag_id": instance.dag_id,
        "run_id": instance.run_id,
        "task_id": instance.task_id,
        "try_number": instance.try_number,
        "logical_date": written(instance.logical_date),
        "data_interval_start": written(instance.data_interval_start),
        "data_interval_end": written(instance.data_interval_end),
    })
}

#[async_trait]
impl Kind for Python {
    fn name(&self) -> &'static str {
        "python"
    }

    fn summary(&self) -> &'static str {
        "Runs a Python script, or one for another interpreter"
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    fn outputs(&self) -> Outputs {
        Outputs::Free
    }

    fn check(&self, with: &Map<String, Value>) -> Vec<Problem> {
        let mut problems = shell::check_environment(with);
        let mut refuse = |field: Option<&str>, message: String, hint: &str| {
            problems.push(Problem {
                field: field.map(str::to_owned),
                message,
                hint: Some(hint.to_owned()),
            });
        };
        match (with.get("script"), with.get("file")) {
            (None, None) => refuse(
                None,
                "neither `script` nor `file` is given".to_owned(),
                "write `script = '''…'''`, or `file = \"scripts/clean.py\"`",
            ),
            (Some(_), Some(_)) => refuse(
                Some("file"),
                "both `script` and `file` are given".to_owned(),
                "remove one of them",
            ),
            (Some(Value::String(script)), None) if script.trim().is_empty() => refuse(
                Some("script"),
                "`script` is empty".to_owned(),
                "use the kind `noop` for a task that does nothing",
            ),
            (None, Some(Value::String(file))) if !file.contains("{{") => {
                if let Err(message) = dag_folder::check_path(file) {
                    refuse(
                        Some("file"),
                        message,
                        "such as `file = \"scripts/clean.py\"`",
                    );
                }
            }
            (Some(_), None) | (None, Some(_)) => {}
        }
        match Given::new(with).texts("interpreter") {
            Ok(None) => {}
            Ok(Some(words)) if words.first().is_some_and(|word| !word.trim().is_empty()) => {}
            Ok(Some(_)) | Err(_) => refuse(
                Some("interpreter"),
                "`interpreter` names no program".to_owned(),
                "write `interpreter = \"python3\"`, or a list of it and its arguments",
            ),
        }
        // A text may be a template that gives a table.
        if with
            .get("inputs")
            .is_some_and(|inputs| !inputs.is_object() && !inputs.is_string())
        {
            refuse(
                Some("inputs"),
                "`inputs` is not a table".to_owned(),
                "write `inputs = { land = \"{{ outputs.land }}\" }`",
            );
        }
        problems
    }

    async fn run(&self, context: &Context, with: Map<String, Value>) -> Result<Outcome, Failure> {
        let job = self.job(context, &with).await?;
        self.shell.start(context, job).await
    }
}
