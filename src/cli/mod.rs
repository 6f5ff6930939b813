//! The command line: what a person types, one file per group of commands. No command decides anything about the
//! orchestration; each asks the store or starts a role, and prints.

mod backfill;
mod check;
mod client;
mod connections;
mod dags;
mod dags_test;
mod datasets;
mod db;
mod emulate;
mod env;
mod init;
mod lake;
mod logical_date;
mod logs;
mod notifications;
pub(crate) mod output;
mod pools;
pub(crate) mod query;
mod render;
mod runs;
mod schedule;
mod secrets;
mod variables;
mod why;
mod workers;

use clap::{Args, Parser, Subcommand};

use crate::{
    bench, demo,
    failure::Result,
    logging::Logging,
    roles,
    settings::{Flags, Settings},
    standalone,
};

/// Pinwheel: a workflow orchestrator in one binary, with the data work built in.
///
/// DAGs are TOML files, state lives in Postgres. Pinwheel lands Kafka topics in S3, cleans them, writes reports, and
/// keeps a live view of the same topic beside it.
#[derive(Debug, Parser)]
#[command(
    name = "pinwheel",
    version,
    max_term_width = 100,
    after_help = "\
Start here:
  pinwheel demo                     the whole pipeline on real pins; pages on http://127.0.0.1:8080
  pinwheel standalone               everything in one process over the DAG files in dags/
  pinwheel init DIR                 a new project whose DAG runs
  pinwheel dags check               check DAG files; needs nothing running
  pinwheel dags test FILE           run a DAG once in this process; needs nothing running
  pinwheel dags trigger ID --wait   run a DAG now and wait for it

Exit codes:
  0  what was asked for was done
  1  it failed: a run failed, the demo's numbers disagree, a role broke
  2  the command line, a setting or a file is not valid; nothing was done
  3  a service cannot be reached; the same command may succeed later"
)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    pub(crate) logging: Logging,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lay out a new project: settings, a DAG that runs, a dataset, editor settings
    Init(init::Init),
    /// Show the whole pipeline at work on 200 real pins, with services of its own
    Demo(DemoArguments),
    /// Run every role in one process, with services of its own where none are set
    #[command(after_help = "\
Ctrl-C stops it; everything it keeps is below the data directory, and a second start continues there.
While it runs, `pinwheel env` prints where its services are, and client commands find it by themselves.")]
    Standalone,
    /// Run a scheduler: reads DAG files, makes runs when they are due, recovers lost tasks
    Scheduler,
    /// Run a worker: claims and runs tasks
    Worker,
    /// Serve the pages and the API
    Web,
    /// Serve POST /pin/ and pass what comes on to Kafka
    Ingest,
    /// Run the streaming worker: Kafka → cleaning → live tables in Postgres
    Stream,
    /// Post pins to an ingest API as users would
    Emulate(emulate::Arguments),
    /// List, check, show, test, render, trigger and pause DAGs, and add new ones
    #[command(subcommand)]
    Dags(dags::Command),
    /// List, show, cancel, clear and mark runs, and write notes beside them
    #[command(subcommand)]
    Runs(runs::Command),
    /// Run a range of logical dates of a DAG, and steer that
    #[command(subcommand)]
    Backfill(backfill::Command),
    /// List and show datasets, and tell that one was updated
    #[command(subcommand)]
    Datasets(datasets::Command),
    /// List, size and delete pools
    #[command(subcommand)]
    Pools(pools::Command),
    /// List, set, test and delete connections to services outside
    #[command(subcommand)]
    Connections(connections::Command),
    /// List, read, set and delete variables
    #[command(subcommand)]
    Variables(variables::Command),
    /// Look after the keys that seal connections and variables
    #[command(subcommand)]
    Secrets(secrets::Command),
    /// List, test and repeat what people are told
    #[command(subcommand)]
    Notifications(notifications::Command),
    /// List and show workers and schedulers
    #[command(subcommand)]
    Workers(workers::Command),
    /// Say why a task is where it is
    Why(why::Arguments),
    /// Print the log of a task
    Logs(logs::Arguments),
    /// Ask when a schedule fires
    #[command(subcommand)]
    Schedule(schedule::Command),
    /// Run read-only SQL over the cleaned datasets
    Query(query::Arguments),
    /// Look after what tasks have written to the object store
    #[command(subcommand)]
    Lake(lake::Command),
    /// Print where a running standalone's services are, as environment variables
    Env(env::Arguments),
    /// Measure how fast this binary is on this machine
    #[command(subcommand)]
    Bench(bench::Command),
    /// Look after the database
    #[command(subcommand)]
    Db(db::Command),
    /// Watch a worker and end what its tasks run when it cannot; only a worker starts it
    #[command(hide = true)]
    Warden,
}

pub(crate) use self::{dags::wait_until_final, runs::description as run_description};

/// Arguments of `demo`.
#[derive(Debug, Args)]
#[command(after_help = "\
It posts 200 real pins, 40 of them twice, and puts 5 malformed messages beside them; runs the DAG pinterest_daily; and
compares what every part of the pipeline says it did. A second demo on the same data directory continues where the
first stopped.")]
pub(crate) struct DemoArguments {
    /// Leave when the numbers are there: 0 when they agree, 1 when not
    #[arg(long)]
    pub(crate) exit: bool,
    /// Print the numbers as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

impl CommandLine {
    /// Whether a worker starts this process as its warden, which needs neither a runtime nor a log.
    pub(crate) fn is_warden(&self) -> bool {
        matches!(self.command, Command::Warden)
    }

    /// Does what was asked.
    pub(crate) async fn run(self) -> Result<()> {
        let settings = || Settings::read(&self.flags);
        match self.command {
            Command::Init(arguments) => init::init(&arguments).await,
            Command::Demo(arguments) => demo::run(&settings()?, &arguments).await,
            Command::Standalone => standalone::run(&settings()?).await,
            Command::Scheduler => roles::run_scheduler(&settings()?).await,
            Command::Worker => roles::run_worker(&settings()?).await,
            Command::Web => roles::run_web(&settings()?).await,
            Command::Ingest => roles::run_ingest(&settings()?).await,
            Command::Stream => roles::run_stream(&settings()?).await,
            Command::Emulate(arguments) => emulate::run(&settings()?, arguments).await,
            Command::Dags(command) => command.run(&settings()?).await,
            Command::Runs(command) => command.run(&settings()?).await,
            Command::Backfill(command) => command.run(&settings()?).await,
            Command::Datasets(command) => command.run(&settings()?).await,
            Command::Pools(command) => command.run(&settings()?).await,
            Command::Connections(command) => command.run(&settings()?).await,
            Command::Variables(command) => command.run(&settings()?).await,
            Command::Secrets(command) => command.run(&settings()?).await,
            Command::Notifications(command) => command.run(&settings()?).await,
            Command::Workers(command) => command.run(&settings()?).await,
            Command::Why(arguments) => why::run(&settings()?, &arguments).await,
            Command::Logs(arguments) => logs::run(&settings()?, &arguments).await,
            Command::Schedule(command) => command.run(),
            Command::Query(arguments) => query::run(&settings()?, &arguments).await,
            Command::Lake(command) => command.run(&settings()?).await,
            Command::Env(arguments) => env::run(&settings()?, &arguments),
            Command::Bench(command) => command.run(&settings()?).await,
            Command::Db(command) => command.run(&settings()?).await,
            Command::Warden => unreachable!("the process is a warden before there is a runtime"),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn settings_may_stand_before_or_after_the_command() {
        for line in [
            ["pinwheel", "--data-dir", "x", "dags", "list"],
            ["pinwheel", "dags", "--data-dir", "x", "list"],
            ["pinwheel", "dags", "list", "--data-dir", "x"],
        ] {
            let parsed = CommandLine::try_parse_from(line).expect("each is valid");
            assert_eq!(parsed.flags.data_dir, std::path::Path::new("x"));
        }
    }

    #[test]
    fn every_command_has_one_line_for_people() {
        fn walk(command: &clap::Command) {
            for sub in command
                .get_subcommands()
                .filter(|sub| sub.get_name() != "help")
            {
                assert!(
                    sub.get_about().is_some(),
                    "`{}` says nothing about itself",
                    sub.get_name()
                );
                walk(sub);
            }
        }
        walk(&CommandLine::command());
    }
}
