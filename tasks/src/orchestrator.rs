//! What a task may ask of the orchestrator: its time, runs of other DAGs, and a new run. Handed over by
//! [`Context`](crate::Context), so that a kind knows nothing of where runs are kept.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Failure;

/// The orchestrator, as a running task sees it.
#[async_trait]
pub trait Orchestrator: Send + Sync {
    /// The orchestrator's time: the same for every worker, whatever the clocks of their machines say.
    async fn now(&self) -> Result<DateTime<Utc>, OrchestratorError>;

    /// Makes a run of another DAG, or finds the one that the same asker made for the same logical date: asking again after an
    /// answer was lost makes no second run.
    ///
    /// # Errors
    /// [`OrchestratorError::Taken`] when somebody else made a run for that date.
    async fn trigger(&self, wanted: &WantedRun) -> Result<RunSeen, OrchestratorError>;

    /// The run of that number; `None` when there is none (any more).
    async fn run(&self, run_id: i64) -> Result<Option<RunSeen>, OrchestratorError>;

    /// One run of a DAG; `None` when the DAG has no such run yet.
    ///
    /// # Errors
    /// [`OrchestratorError::Refused`] when there is no such DAG.
    async fn run_of(
        &self,
        dag_id: &str,
        which: WhichRun,
    ) -> Result<Option<RunSeen>, OrchestratorError>;
}

/// A run that a task asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct WantedRun {
    /// Of which DAG.
    pub dag_id: String,
    /// For which logical date.
    pub logical_date: DateTime<Utc>,
    /// With these params; the DAG's defaults fill in the others.
    pub params: Map<String, Value>,
    /// Who asks. It is shown as what triggered the run, and tells the asker's own run from somebody else's.
    pub asker: String,
}

/// Which run of a DAG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhichRun {
    /// The one of this logical date; the newest, if a date was run in several ways.
    Of(DateTime<Utc>),
    /// The one of the latest logical date.
    Last,
}

/// A run, as a task may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSeen {
    /// Its number.
    pub run_id: i64,
    /// Its logical date.
    pub logical_date: DateTime<Utc>,
    /// Where it stands.
    pub state: RunState,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It has not begun.
    Queued,
    /// It has begun.
    Running,
    /// It ended well.
    Success,
    /// It ended badly.
    Failed,
    /// A person ended it.
    Cancelled,
}

impl RunState {
    /// All of them, in the order of a run's life.
    pub const ALL: [Self; 5] = [
        Self::Queued,
        Self::Running,
        Self::Success,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The word in DAG files and outputs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of that word.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }

    /// Whether it stays so unless a person clears the run.
    pub const fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Success | Self::Failed | Self::Cancelled => true,
        }
    }
}

/// Why the orchestrator did not do what a task asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrchestratorError {
    /// It makes no sense, such as a DAG that is not there: asking again cannot help.
    #[error("{message}")]
    Refused {
        /// What is wrong.
        message: String,
        /// The next step.
        hint: Option<String>,
    },
    /// Somebody else has a run for that logical date.
    #[error("there is a run for that logical date already: {run_id}")]
    Taken {
        /// That run.
        run_id: i64,
    },
    /// Its store does not answer; asking later may help.
    #[error("the orchestrator's store did not answer: {0}")]
    Unavailable(String),
}

impl From<OrchestratorError> for Failure {
    fn from(error: OrchestratorError) -> Self {
        let message = error.to_string();
        match error {
            OrchestratorError::Refused { hint, .. } => Self {
                hint,
                ..Self::permanent(message)
            },
            OrchestratorError::Taken { .. } => Self::permanent(message)
                .with_hint("give another `logical_date`, or leave it out: then it is now"),
            OrchestratorError::Unavailable(_) => Self::retryable(message),
        }
    }
}

/// An orchestrator that has no runs, for a task that is run by itself. Its time is this machine's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Alone;

impl Alone {
    fn refuse<T>() -> Result<T, OrchestratorError> {
        Err(OrchestratorError::Refused {
            message: "there are no other DAGs here".to_owned(),
            hint: Some("run it with `pinwheel standalone`, which knows them".to_owned()),
        })
    }
}

#[async_trait]
impl Orchestrator for Alone {
    async fn now(&self) -> Result<DateTime<Utc>, OrchestratorError> {
        Ok(Utc::now())
    }

    async fn trigger(&self, _wanted: &WantedRun) -> Result<RunSeen, OrchestratorError> {
        Self::refuse()
    }

    async fn run(&self, _run_id: i64) -> Result<Option<RunSeen>, OrchestratorError> {
        Self::refuse()
    }

    async fn run_of(
        &self,
        _dag_id: &str,
        _which: WhichRun,
    ) -> Result<Option<RunSeen>, OrchestratorError> {
        Self::refuse()
    }
}
