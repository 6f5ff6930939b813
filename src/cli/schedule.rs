//! `pinwheel schedule`: when a schedule fires, before it is written into a file.

use chrono::{DateTime, SecondsFormat, Utc};
use chrono_tz::Tz;
use clap::{Args, Subcommand};
use pinwheel_scheduler::model::Schedule;

use super::output;
use crate::failure::{Failure, Result};

/// `pinwheel schedule …`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print when a schedule fires next
    #[command(after_help = "\
Examples:
  pinwheel schedule next \"0 2 * * *\" --timezone Europe/London
  pinwheel schedule next @daily --count 3
  pinwheel schedule next \"every 15m\"
  pinwheel schedule next \"0 2 * * *\" --timezone Europe/London --from 2026-03-28T00:00:00Z --count 5 --json")]
    Next(Next),
}

/// Arguments of `schedule next`.
#[derive(Debug, Args)]
pub(crate) struct Next {
    /// A cron expression of 5 fields (6 with seconds first), a preset such as @daily, or "every 15m"
    #[arg(value_name = "SCHEDULE")]
    expression: String,
    /// The time zone whose clock it follows
    #[arg(long, default_value = "UTC", value_parser = time_zone, value_name = "ZONE")]
    timezone: Tz,
    /// The instant from which an interval is counted, RFC 3339 [default: 1970-01-01T00:00:00Z]
    #[arg(long, value_name = "TIME")]
    anchor: Option<DateTime<Utc>>,
    /// The instant after which to look, RFC 3339 [default: now]
    #[arg(long, value_name = "TIME")]
    from: Option<DateTime<Utc>>,
    /// How many
    #[arg(long, default_value_t = 5, value_parser = count)]
    count: usize,
    /// Print a JSON list of UTC instants
    #[arg(long)]
    json: bool,
}

fn time_zone(name: &str) -> std::result::Result<Tz, String> {
    name.parse().map_err(|_| {
        let nearest = chrono_tz::TZ_VARIANTS
            .iter()
            .map(|zone| zone.name())
            .min_by_key(|known| {
                strsim::damerau_levenshtein(&known.to_lowercase(), &name.to_lowercase())
            });
        let hint = nearest
            .map(|nearest| format!(", did you mean `{nearest}`?"))
            .unwrap_or_default();
        format!("no time zone has that name{hint}")
    })
}

pub(super) fn count(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=1000) => Ok(count),
        _ => Err("expected a number from 1 to 1000".to_owned()),
    }
}

impl Command {
    pub(crate) fn run(self) -> Result<()> {
        let Self::Next(arguments) = self;
        let schedule = parse(&arguments)?;
        let from = arguments.from.unwrap_or_else(Utc::now);
        let occurrences = schedule.upcoming(from, arguments.count);
        if arguments.json {
            let instants: Vec<_> = occurrences
                .iter()
                .map(|occurrence| occurrence.at.to_rfc3339_opts(SecondsFormat::AutoSi, true))
                .collect();
            return output::json(&instants);
        }
        output::text(&format!("{}\n", schedule.describe()))?;
        let rows = occurrences.iter().map(|occurrence| {
            [
                occurrence.at.to_rfc3339_opts(SecondsFormat::AutoSi, true),
                occurrence
                    .local
                    .format("%a %Y-%m-%d %H:%M:%S %Z")
                    .to_string(),
                occurrence
                    .mark
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            ]
        });
        output::text(&output::columns(["utc", "local", "clock change"], rows))
    }
}

fn parse(arguments: &Next) -> Result<Schedule> {
    let parsed = match arguments.expression.strip_prefix("every ") {
        Some(interval) => {
            Schedule::parse_every(interval.trim(), arguments.anchor, arguments.timezone)
        }
        None => Schedule::parse_cron(&arguments.expression, arguments.timezone),
    };
    parsed.map_err(|error| {
        let failure = Failure::invalid(error.message);
        match error.hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    })
}
