//! `pinwheel logs`: the log of one task of one run.

use std::time::Duration;

use clap::Args;
use pinwheel_scheduler::{
    engine::Changes,
    model::{RunId, TaskId},
    store::{self, InstanceRow, LogPosition, Store},
};

use super::{client, output};
use crate::{
    failure::{Failure, Result},
    settings::Settings,
};

/// Lines asked for at once.
const PAGE: i64 = 1000;

/// Arguments of `logs`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinwheel logs 12 land            every try
  pinwheel logs 12 land --try 2    the second try
  pinwheel logs 12 land --item 3   one item of a mapped task
  pinwheel logs 12 land --follow   until the task has ended")]
pub(crate) struct Arguments {
    /// The run's number
    run: RunId,
    /// The task
    #[arg(value_parser = client::task_id)]
    task: TaskId,
    /// The item of a mapped task, by its place in the list from 0
    #[arg(long, visible_alias = "map-index", value_name = "INDEX")]
    item: Option<i32>,
    /// Only this try, counted from 1
    #[arg(long = "try", value_name = "NUMBER")]
    try_number: Option<i32>,
    /// Go on until the task has ended
    #[arg(long, short)]
    follow: bool,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Prints the log.
pub(crate) async fn run(settings: &Settings, arguments: &Arguments) -> Result<()> {
    let store = client::connect(settings).await?;
    let mut changes = Changes::listen(&store).await?;
    let mut position = LogPosition::default();
    loop {
        // Asked before the lines are read: what a task wrote last is stored before it is final.
        let instance = find(&store, arguments).await?;
        position = print(&store, &instance, arguments, position).await?;
        if !arguments.follow || instance.state.is_final() {
            return Ok(());
        }
        // Lines ring no bell of their own.
        let _look_anyway = tokio::time::timeout(Duration::from_millis(500), changes.next()).await;
    }
}

async fn find(store: &Store, arguments: &Arguments) -> Result<InstanceRow> {
    let run = client::run(store, arguments.run).await?;
    let instances = store.instances(arguments.run).await?;
    let of_task: Vec<_> = instances
        .iter()
        .filter(|instance| instance.task_id == arguments.task)
        .collect();
    let map_index = arguments.item.unwrap_or(-1);
    let found = of_task
        .iter()
        .find(|instance| instance.map_index == map_index);
    if let Some(found) = found {
        return Ok((*found).clone());
    }
    if !of_task.is_empty() {
        let items = of_task.iter().filter(|one| one.map_index >= 0).count();
        return Err(no_such_item(arguments, items));
    }
    let nearest = instances
        .iter()
        .map(|instance| instance.task_id.to_string())
        .min_by_key(|task| strsim::damerau_levenshtein(task, arguments.task.as_str()))
        .filter(|task| strsim::damerau_levenshtein(task, arguments.task.as_str()) <= 3);
    Err(store::Error::UnknownTask {
        dag_id: run.dag_id,
        task_id: arguments.task.to_string(),
        nearest,
    }
    .into())
}

/// The task is there, and what was asked for is not among its `items`.
fn no_such_item(arguments: &Arguments, items: usize) -> Failure {
    let task = format!("task `{}` of run {}", arguments.task, arguments.run);
    let there_are = match items {
        1 => "1 item".to_owned(),
        many => format!("{many} items"),
    };
    match (arguments.item, items) {
        (_, 0) => Failure::invalid(format!("{task} has no items"))
            .hint("leave out --item; the list of a mapped task is made when it would run"),
        (None, _) => Failure::invalid(format!("{task} has {there_are}, each with its own log"))
            .hint("choose one with --item, counted from 0"),
        (Some(item), _) => {
            Failure::invalid(format!("{task} has no item {item}, it has {there_are}"))
                .hint("they are counted from 0")
        }
    }
}

async fn print(
    store: &Store,
    instance: &InstanceRow,
    arguments: &Arguments,
    mut position: LogPosition,
) -> Result<LogPosition> {
    loop {
        let lines = store.log(instance.instance_id, position, PAGE).await?;
        let Some(last) = lines.last() else {
            return Ok(position);
        };
        position = last.position;
        for line in lines.iter().filter(|line| {
            arguments
                .try_number
                .is_none_or(|wanted| wanted == line.try_number)
        }) {
            if arguments.json {
                output::text(&serde_json::to_string(line).expect("a row has only text keys"))?;
            } else {
                let time = line.at.format("%H:%M:%S%.3fZ");
                output::text(&format!(
                    "{time} try {} {:6} {}",
                    line.try_number, line.stream, line.message
                ))?;
            }
        }
    }
}
