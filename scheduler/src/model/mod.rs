//! The pure model: DAG file → validated graph, states, trigger rules, schedules, retries. No I/O and no clock here.

mod alerts;
pub mod backfill;
pub mod dag_file;
mod datasets;
mod definition;
pub mod flow;
mod ids;
pub mod message;
mod params;
pub mod retry;
pub mod schedule;
pub mod state;
pub mod template;
pub mod trigger_rule;

pub use alerts::{Alerts, Deadline, Event, Notify, Origin, Route};
pub use datasets::{DatasetExpression, DatasetName};
pub use definition::{
    Catchup, Concurrency, Dag, Flow, Foreach, Group, Overlap, Param, ParamType, Params,
    ParamsError, Task,
};
pub use ids::{
    BackfillId, ConnectionId, DagId, InstanceId, MessageId, PoolName, RunId, TaskId, VariableName,
    VersionId, WorkerId, is_name,
};
pub use schedule::Schedule;
pub use state::{RunKind, RunState, SleepReason, TaskState, TryOutcome};
pub use trigger_rule::TriggerRule;
