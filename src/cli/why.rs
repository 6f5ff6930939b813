//! `pinwheel why`: what keeps a task where it is.

use clap::Args;
use pinwheel_scheduler::model::{RunId, TaskId};

use super::{client, output};
use crate::{failure::Result, settings::Settings};

/// Arguments of `why`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  pinwheel why 12 load
  load is queued: pool `cpu` has 0 of 4 slots free")]
pub(crate) struct Arguments {
    /// The run's number
    run: RunId,
    /// The task
    #[arg(value_parser = client::task_id)]
    task: TaskId,
    /// The item of a mapped task
    #[arg(long, visible_alias = "item", value_name = "INDEX")]
    map_index: Option<i32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Asks the store, and says it in a sentence.
pub(crate) async fn run(settings: &Settings, arguments: &Arguments) -> Result<()> {
    let store = client::connect(settings).await?;
    let why = store
        .why(
            arguments.run,
            &arguments.task,
            arguments.map_index.unwrap_or(-1),
        )
        .await?;
    if arguments.json {
        return output::json(&why);
    }
    let item = arguments
        .map_index
        .map_or_else(String::new, |index| format!("[{index}]"));
    let mut text = format!(
        "{}{item} is {}: {}",
        arguments.task,
        why.state.label(),
        why.sentence
    );
    if let Some(hint) = &why.hint {
        text.push_str("\nhint: ");
        text.push_str(hint);
    }
    output::text(&text)
}
