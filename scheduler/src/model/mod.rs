//! The pure model: DAG file → validated graph, states, trigger rules, schedules, retries. No I/O and no clock here.

mod alerts;
pub mod dag_file;
mod definition;
mod ids;
pub mod message;
mod params;
pub mod retry;
pub mod schedule;
pub mod state;
pub mod template;
pub mod trigger_rule;

pub use alerts::{Alerts, Deadline, Event, Notify, Origin, Route};
pub use definition::{Catchup, Concurrency, Dag, Param, ParamType, Params, ParamsError, Task};
pub use ids::{
    DagId, InstanceId, MessageId, PoolName, RunId, TaskId, VersionId, WorkerId, is_name,
};
pub use schedule::Schedule;
pub use state::{RunKind, RunState, SleepReason, TaskState, TryOutcome};
pub use trigger_rule::TriggerRule;
