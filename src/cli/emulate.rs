//! `pinwheel emulate`: posts pins to an ingest API as the users of the original pipeline did.

use std::path::PathBuf;

use clap::Args;
use pinwheel_streaming::emulate::{self, EmulateOptions};
use serde_json::json;

use super::output;
use crate::{
    embedded::Running,
    failure::{Failure, Result},
    progress::Progress,
    settings::Settings,
    shutdown, standalone,
};

/// Arguments of `emulate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinwheel emulate                       the 200 bundled pins to the running standalone, as fast as it takes them
  pinwheel emulate --rate 2 --count 500  two posts a second, starting over at the end of the file
  pinwheel emulate --file mine.ndjson --url http://127.0.0.1:8000/pin/")]
pub(crate) struct Arguments {
    /// The pins, one JSON object a line [default: the 200 bundled pins]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Where to post [default: the running standalone, else http://127.0.0.1:8000/pin/]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Posts a second [default: as fast as they are answered]
    #[arg(long, value_name = "NUMBER")]
    rate: Option<f64>,
    /// How many to post, starting over at the end of the file [default: each once]
    #[arg(long, value_name = "NUMBER")]
    count: Option<usize>,
    /// Lines to pass over first
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    skip: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Posts.
pub(crate) async fn run(settings: &Settings, arguments: Arguments) -> Result<()> {
    let url = match &arguments.url {
        Some(url) => url.clone(),
        None => match Running::find(&settings.data_dir)? {
            Some(running) => standalone::pin_url(&running.ingest_url),
            None => standalone::pin_url(&format!("http://{}", settings.ingest_bind)),
        },
    };
    let mut options = match &arguments.file {
        Some(file) => EmulateOptions::from_file(url, file).await?,
        None => EmulateOptions::new(url, standalone::PINS),
    };
    options.skip = arguments.skip;
    options.count = arguments.count;
    options.rate = arguments.rate;

    let progress = Progress::start("posting pins");
    let posted = emulate::run(
        options,
        |posted| progress.count(posted.accepted + posted.refused, posted.wanted),
        shutdown::token(),
    )
    .await;
    progress.end();
    let posted = posted?;
    if arguments.json {
        output::json(&json!({
            "accepted": posted.accepted, "refused": posted.refused.len(), "unposted": posted.unposted, "retried": posted.retried,
        }))?;
    } else {
        output::text(&format!(
            "{} pins accepted, {} refused",
            posted.accepted,
            posted.refused.len()
        ))?;
    }
    if posted.unposted > 0 {
        return Err(Failure::failed(format!(
            "stopped before {} pins were posted",
            posted.unposted
        )));
    }
    match posted.refused.first() {
        None => Ok(()),
        Some(first) => Err(
            Failure::failed(format!("{} pins were refused", posted.refused.len())).hint(format!(
                "the first is line {}: {}",
                first.line, first.reason
            )),
        ),
    }
}

impl From<emulate::Error> for Failure {
    fn from(error: emulate::Error) -> Self {
        let message = error.to_string();
        match error {
            emulate::Error::Unreachable { .. } => Self::unreachable(message)
                .hint("start `pinwheel standalone`, or name the address with --url"),
            emulate::Error::File { .. }
            | emulate::Error::Nothing { .. }
            | emulate::Error::Rate(_)
            | emulate::Error::Url { .. } => Self::invalid(message),
            emulate::Error::Client(_) => Self::failed(message),
        }
    }
}
