//! `pinwheel pools`: how many tasks run at once.

use clap::{Args, Subcommand};
use pinwheel_scheduler::{
    model::PoolName,
    store::{PoolChange, PoolDescription, PoolRow, PoolSet, PoolSize},
};
use serde_json::json;

use super::{client, output};
use crate::{failure::Result, settings::Settings};

/// `pinwheel pools …`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List pools with what they hold and what waits for them
    List(List),
    /// Make a pool or change one, for every task claimed from then on
    #[command(after_help = "\
Examples:
  pinwheel pools set gpu --slots 2 --description 'The two cards'
  pinwheel pools set gpu --unlimited

Tasks that run go on, also in a pool that becomes smaller than what they take.")]
    Set(Set),
    /// Delete a pool that no task of a current version names
    Delete(Delete),
}

/// Arguments of `pools list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `pools set`.
#[derive(Debug, Args)]
pub(crate) struct Set {
    /// The pool
    #[arg(value_parser = client::pool_name, value_name = "NAME")]
    pool: PoolName,
    #[command(flatten)]
    size: Size,
    /// What it is for [default: as it is]
    #[arg(long, value_parser = description, value_name = "TEXT")]
    description: Option<PoolDescription>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Size {
    /// How many slots it has
    #[arg(long, value_parser = slots, value_name = "NUMBER")]
    slots: Option<PoolSize>,
    /// No limit but the workers' own slots
    #[arg(long)]
    unlimited: bool,
}

/// Arguments of `pools delete`.
#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The pool
    #[arg(value_parser = client::pool_name, value_name = "NAME")]
    pool: PoolName,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn slots(text: &str) -> std::result::Result<PoolSize, String> {
    text.parse()
        .ok()
        .and_then(PoolSize::limit)
        .ok_or_else(|| format!("a pool has 1 to {} slots", i32::MAX))
}

fn description(text: &str) -> std::result::Result<PoolDescription, String> {
    PoolDescription::new(text).ok_or_else(|| {
        format!(
            "a description has one line of at most {} characters",
            PoolDescription::LONGEST
        )
    })
}

impl Command {
    pub(crate) async fn run(self, settings: &Settings) -> Result<()> {
        match self {
            Self::List(arguments) => list(settings, &arguments).await,
            Self::Set(arguments) => set(settings, arguments).await,
            Self::Delete(arguments) => delete(settings, &arguments).await,
        }
    }
}

async fn list(settings: &Settings, arguments: &List) -> Result<()> {
    let store = client::connect(settings).await?;
    let pools = store.pools().await?;
    if arguments.json {
        return output::json(&pools);
    }
    output::text(&table(&pools))
}

async fn set(settings: &Settings, arguments: Set) -> Result<()> {
    let store = client::connect(settings).await?;
    let change = PoolChange {
        size: arguments.size.slots.unwrap_or(PoolSize::Unlimited),
        description: arguments.description,
    };
    let done = store
        .set_pool(&arguments.pool, &change, &client::actor())
        .await?;
    client::ring(&store).await;
    let pool = store.pool(&arguments.pool).await?;
    if arguments.json {
        return output::json(&pool);
    }
    output::text(&words(&pool, done))
}

async fn delete(settings: &Settings, arguments: &Delete) -> Result<()> {
    let store = client::connect(settings).await?;
    store.delete_pool(&arguments.pool, &client::actor()).await?;
    client::ring(&store).await;
    if arguments.json {
        return output::json(&json!({ "deleted": arguments.pool }));
    }
    output::text(&format!("the pool {} is deleted", arguments.pool))
}

fn table(pools: &[PoolRow]) -> String {
    let rows = pools.iter().map(|pool| {
        [
            pool.pool.to_string(),
            size(pool),
            pool.used.to_string(),
            pool.running.to_string(),
            pool.ready.to_string(),
            pool.tasks.to_string(),
            pool.description.clone(),
        ]
    });
    output::columns(
        [
            "pool",
            "slots",
            "in use",
            "running",
            "waiting",
            "tasks",
            "description",
        ],
        rows,
    )
}

fn size(pool: &PoolRow) -> String {
    pool.slots
        .map_or_else(|| "no limit".to_owned(), |slots| slots.to_string())
}

fn words(pool: &PoolRow, done: PoolSet) -> String {
    let verb = match done {
        PoolSet::Created => "is made",
        PoolSet::Changed => "is changed",
    };
    let mut words = format!("the pool {} {verb}: slots: {}", pool.pool, size(pool));
    if pool.slots.is_some() {
        words.push_str(&format!(", in use: {}", pool.used));
    }
    words
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct CommandLine {
        #[command(subcommand)]
        command: Command,
    }

    fn pool(name: &str, slots: Option<i32>, used: i64) -> PoolRow {
        PoolRow {
            pool: PoolName::new(name).expect("a name"),
            slots,
            description: "For tests".to_owned(),
            used,
            running: used,
            ready: 4,
            tasks: 7,
            dags: vec![],
        }
    }

    #[test]
    fn a_set_says_exactly_one_size() {
        let parse = |line: &[&str]| {
            CommandLine::try_parse_from(["pools", "set", "gpu"].iter().chain(line)).is_ok()
        };
        assert!(parse(&["--slots", "2"]) && parse(&["--unlimited", "--description", "x"]));
        for wrong in [
            &[] as &[&str],
            &["--slots", "2", "--unlimited"],
            &["--slots", "0"],
            &["--slots", "-1"],
            &["--slots", "2147483648"],
            &["--slots", "many"],
            &["--unlimited", "--description", "a\nb"],
        ] {
            assert!(!parse(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn people_read_what_a_pool_holds() {
        insta::assert_snapshot!(table(&[pool("default", None, 3), pool("gpu", Some(2), 4)]), @"
        POOL     SLOTS     IN USE  RUNNING  WAITING  TASKS  DESCRIPTION
        default  no limit  3       3        4        7      For tests
        gpu      2         4       4        4        7      For tests
        ");
        insta::assert_snapshot!(words(&pool("gpu", Some(2), 4), PoolSet::Changed), @"the pool gpu is changed: slots: 2, in use: 4");
        insta::assert_snapshot!(words(&pool("gpu", None, 4), PoolSet::Created), @"the pool gpu is made: slots: no limit");
    }
}
