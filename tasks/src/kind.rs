//! The trait of a task kind, and how a kind describes its `with` table so that DAG files are checked when they
//! are read and not when they run.

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::{Context, Failure, Outcome};

/// A kind of task, such as `shell` or `clean`. One value serves all tries of all tasks of that kind.
#[async_trait]
pub trait Kind: Send + Sync + 'static {
    /// The word in `kind = "…"`.
    fn name(&self) -> &'static str;

    /// One sentence for `--help`, the docs and the JSON Schema.
    fn summary(&self) -> &'static str;

    /// Every key of the `with` table. Keys that are not listed are refused when the file is read.
    fn fields(&self) -> &'static [Field];

    /// Which names `outputs.<task>.<name>` may use.
    fn outputs(&self) -> Outputs;

    /// Checks that no single field can express ("exactly one of `command` and `script`"). `with` is what the file
    /// says, templates not yet rendered; types and unknown keys have been checked.
    fn check(&self, with: &Map<String, Value>) -> Vec<Problem> {
        let _ = with;
        Vec::new()
    }

    /// Runs one try. `with` is rendered. A kind stops soon after `context.cancel` fires; its result is then ignored.
    ///
    /// # Errors
    /// A [`Failure`] whose class says whether the try may be repeated.
    async fn run(&self, context: &Context, with: Map<String, Value>) -> Result<Outcome, Failure>;
}

/// One key of a `with` table.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// The key.
    pub name: &'static str,
    /// The type after rendering. A string with a template is accepted for every type when the file is read.
    pub field_type: FieldType,
    /// Whether the key must be given.
    pub presence: Presence,
    /// One sentence for the docs and the JSON Schema.
    pub doc: &'static str,
}

/// Whether a key must be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// The file is refused without it.
    Required,
    /// It may be left out; the text says what holds then.
    Optional {
        /// The default as it would be written in the file, or a phrase.
        default: &'static str,
    },
}

/// The type of a `with` value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldType {
    /// A string; `{{ … }}` in it is rendered.
    Text,
    /// A string in which `{{` is an error: it reaches an interpreter as it is (`script` of `shell`).
    Verbatim,
    /// A list of such strings (`statements` of `sql`).
    VerbatimList,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A string such as `"90s"`, `"15m"`, `"1h 30m"`.
    Duration,
    /// A list of strings, each may be a template.
    TextList,
    /// A table of strings, each value may be a template.
    TextTable,
    /// Anything; strings in it may be templates.
    Any,
}

/// What a kind's output looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outputs {
    /// Exactly these names, each with a sentence for the docs. Another name in a template is an error at load time.
    Known(&'static [(&'static str, &'static str)]),
    /// Decided by the task when it runs (`shell`).
    Free,
}

/// Something wrong with a `with` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key it is about; `None` for the table as a whole.
    pub field: Option<String>,
    /// What is wrong: lowercase, no full stop, names in backticks.
    pub message: String,
    /// The next step.
    pub hint: Option<String>,
}
