//! `pinwheel emulate`: posts pins to an ingest API as the users of the original pipeline did, and makes volume.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{Args, ValueEnum};
use pinwheel_streaming::emulate::{
    self, EmulateOptions, Emulated, Encoding, Form, Order, Population, Records, Source, ToTopic,
    TopicError,
    rows::{self, Choice},
};
use pinwheel_tasks::{KafkaSettings, kafka};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::output;
use crate::{
    embedded::Running,
    failure::{Failure, Result},
    progress::Progress,
    settings::Settings,
    shutdown, standalone,
};

/// The number of partitions of a topic that is missing.
const PARTITIONS: i32 = 4;

/// Arguments of `emulate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pinwheel emulate                       the 200 bundled pins to the running standalone, as fast as it takes them
  pinwheel emulate --rate 2 --count 500  two posts a second, starting over at the end of the file
  pinwheel emulate --file mine.ndjson --url http://127.0.0.1:8000/pin/
  pinwheel emulate --original --records pins,geo,users
                                         for ever, as the original emulator: its rows of 11,001, its pauses
  pinwheel emulate --rows 1000000 --to topics --records pins,geo,users
                                         a million pins, places and users straight on their topics
  pinwheel emulate --rows 1000000 --batch 1000 --gzip
  pinwheel emulate --rows 5000000 --write data/ --records pins

Rows beyond the 200 real ones are made from them, with the same shape and dirt, by a fixed seed. Places and users always go
straight to the topics `geo` and `users`; their `ind` is the `index` of the pin.")]
pub(crate) struct Arguments {
    /// The pins, one JSON object a line [default: the 200 bundled pins]
    #[arg(long, value_name = "FILE", conflicts_with = "rows")]
    file: Option<PathBuf>,
    /// Make so many rows of the shape of the bundled pins and post each once
    #[arg(long, value_name = "NUMBER")]
    rows: Option<u64>,
    /// Choose rows and pauses as the original emulator did: without end, unless --count says
    #[arg(long)]
    original: bool,
    /// The seed of made rows, and of the original emulator's choice
    #[arg(long, value_name = "NUMBER", default_value_t = rows::ORIGINAL_SEED)]
    seed: u64,
    /// What is made of each row: pins, and what belongs to them
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "pins"
    )]
    records: Vec<Kind>,
    /// Where pins go: through the ingest API, or straight on their topic
    #[arg(long, value_enum, default_value_t = Way::Ingest)]
    to: Way,
    /// Write pins.ndjson, geo.ndjson and users.ndjson into a folder instead
    #[arg(long, value_name = "DIR", conflicts_with_all = ["url", "to", "batch"])]
    write: Option<PathBuf>,
    /// Where to post [default: the running standalone, else http://127.0.0.1:8000/pin/]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Pins a second [default: as fast as they are answered, or the pauses of the original]
    #[arg(long, value_name = "NUMBER")]
    rate: Option<f64>,
    /// How many to post, starting over at the end [default: each once]
    #[arg(long, value_name = "NUMBER")]
    count: Option<usize>,
    /// Pins to pass over first
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    skip: usize,
    /// Post so many pins a request, to the batch endpoint
    #[arg(long, value_name = "NUMBER")]
    batch: Option<std::num::NonZeroUsize>,
    /// Compress batches
    #[arg(long, requires = "batch")]
    gzip: bool,
    /// How many requests may wait for an answer at the same time
    #[arg(long, value_name = "NUMBER", default_value_t = 32)]
    concurrency: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is made of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Pins,
    Geo,
    Users,
}

impl Kind {
    fn records(self) -> Records {
        match self {
            Self::Pins => Records::Pins,
            Self::Geo => Records::Geo,
            Self::Users => Records::Users,
        }
    }
}

/// Where pins go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    Ingest,
    Topics,
}

/// Posts.
pub(crate) async fn run(settings: &Settings, arguments: Arguments) -> Result<()> {
    let population = Arc::new(Population::new(arguments.seed));
    let running = Running::find(&settings.data_dir)?;
    let options = options(settings, &arguments, running.as_ref(), &population).await?;
    if let Some(folder) = &arguments.write {
        return write(folder, &arguments, &options, &population).await;
    }
    let stop = shutdown::token();
    let progress = Progress::start("posting pins");
    let posted = send(
        settings, &arguments, options, running, population, &progress, stop,
    )
    .await;
    progress.end();
    let (posted, produced) = posted?;
    tell(&arguments, &posted, &produced)?;
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

async fn options(
    settings: &Settings,
    arguments: &Arguments,
    running: Option<&Running>,
    population: &Arc<Population>,
) -> Result<EmulateOptions> {
    let mut url = match (&arguments.url, running) {
        (Some(url), _) => url.clone(),
        (None, Some(running)) => standalone::pin_url(&running.ingest_url),
        (None, None) => standalone::pin_url(&format!("http://{}", settings.ingest_bind)),
    };
    if arguments.batch.is_some()
        && let Some(base) = url.strip_suffix("/pin/").or(url.strip_suffix("/pin"))
    {
        url = format!("{base}/pins/");
    }
    let rows = match (arguments.rows, arguments.original) {
        (Some(rows), _) => Some(rows),
        (None, true) => Some(rows::LAST_ROW + 1),
        (None, false) => None,
    };
    let mut options = match (&arguments.file, rows) {
        (Some(file), _) => EmulateOptions::from_file(url, file).await?,
        (None, Some(rows)) => EmulateOptions::of(url, Source::Rows(Arc::clone(population), rows)),
        (None, None) => EmulateOptions::new(url, standalone::PINS),
    };
    if arguments.original {
        options.order = Order::Original {
            seed: arguments.seed,
        };
    }
    if let Some(pins) = arguments.batch {
        options.form = Form::Batch {
            pins: pins.get(),
            encoding: if arguments.gzip {
                Encoding::Gzip
            } else {
                Encoding::Identity
            },
        };
    }
    options.skip = arguments.skip;
    options.count = arguments.count;
    options.rate = arguments.rate;
    options.concurrency = arguments.concurrency;
    Ok(options)
}

/// Sends everything at the same time, and returns what became of the posts and how many records each topic got.
async fn send(
    settings: &Settings,
    arguments: &Arguments,
    options: EmulateOptions,
    running: Option<Running>,
    population: Arc<Population>,
    progress: &Progress,
    stop: CancellationToken,
) -> Result<(Emulated, Vec<(&'static str, u64)>)> {
    let posts_pins = arguments.to == Way::Ingest && arguments.records.contains(&Kind::Pins);
    let straight: Vec<Records> = arguments
        .records
        .iter()
        .filter(|kind| !(posts_pins && **kind == Kind::Pins))
        .map(|kind| kind.records())
        .collect();
    if arguments.file.is_some() && straight.contains(&Records::Pins) {
        return Err(Failure::invalid(
            "lines of a file go through the ingest API, not straight to a topic",
        )
        .hint("leave out `--to topics`"));
    }
    let mut producing = tokio::task::JoinSet::new();
    if !straight.is_empty() {
        let kafka = match (&settings.kafka, running) {
            (Some(kafka), _) => kafka.clone(),
            (None, Some(running)) => running.kafka,
            (None, None) => settings.require_kafka("emulate")?.clone(),
        };
        for records in straight {
            let steps = emulate::indices(&options)?;
            let what = ToTopic {
                population: Arc::clone(&population),
                records,
                topic: records.name().to_owned(),
                rate: options.rate,
            };
            producing.spawn(to_topic(kafka.clone(), what, steps, stop.clone()));
        }
    }
    let posting = async {
        if !posts_pins {
            return Ok(Emulated::default());
        }
        let shown = |posted: emulate::Progress| {
            let done = posted.accepted + posted.refused;
            match posted.wanted {
                Some(wanted) => progress.count(done, wanted),
                None => progress.note(&done.to_string()),
            }
        };
        emulate::run(options, shown, stop.clone()).await
    };
    let mut produced = Vec::new();
    let producing = async {
        while let Some(ended) = producing.join_next().await {
            produced.push(ended.expect("a producer does not panic")?);
        }
        Ok::<_, Failure>(())
    };
    let (posted, all) = tokio::join!(posting, producing);
    all?;
    Ok((posted?, produced))
}

async fn to_topic(
    kafka: KafkaSettings,
    what: ToTopic,
    steps: impl Iterator<Item = Choice> + Send + 'static,
    stop: CancellationToken,
) -> Result<(&'static str, u64)> {
    let name = what.records.name();
    kafka::ensure_topic(&kafka, &what.topic, PARTITIONS)
        .await
        .map_err(|failure| {
            Failure::unreachable(format!("cannot make the topic `{name}`")).because(failure)
        })?;
    let sent = emulate::produce(&kafka, what, steps, |_| {}, stop).await?;
    Ok((name, sent))
}

/// Writes what would be sent, one file for each kind of record.
async fn write(
    folder: &Path,
    arguments: &Arguments,
    options: &EmulateOptions,
    population: &Arc<Population>,
) -> Result<()> {
    if arguments.file.is_some() {
        return Err(
            Failure::invalid("`--write` makes rows, and a file has its own")
                .hint("give `--rows NUMBER` in the place of `--file`"),
        );
    }
    if arguments.original && arguments.count.is_none() {
        return Err(
            Failure::invalid("the original emulator never ends").hint("give `--count NUMBER`")
        );
    }
    std::fs::create_dir_all(folder).map_err(|error| cannot_write(folder, error))?;
    let mut written = Vec::new();
    for kind in &arguments.records {
        let records = kind.records();
        let file = folder.join(format!("{}.ndjson", records.name()));
        let steps = emulate::indices(options)?;
        let population = Arc::clone(population);
        let lines = tokio::task::spawn_blocking({
            let file = file.clone();
            move || write_file(&file, &population, records, steps)
        });
        let lines = lines.await.expect("writing does not panic");
        written.push((
            records.name(),
            lines.map_err(|error| cannot_write(&file, error))?,
        ));
    }
    tell(arguments, &Emulated::default(), &written)
}

fn write_file(
    file: &Path,
    population: &Population,
    records: Records,
    steps: impl Iterator<Item = Choice>,
) -> io::Result<u64> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(file)?);
    let mut line = Vec::with_capacity(1024);
    let mut lines = 0;
    for step in steps {
        line.clear();
        population.write(records, step.row, &mut line);
        line.push(b'\n');
        out.write_all(&line)?;
        lines += 1;
    }
    out.flush()?;
    Ok(lines)
}

fn cannot_write(path: &Path, error: io::Error) -> Failure {
    Failure::invalid(format!("cannot write `{}`", path.display())).because(error)
}

fn tell(arguments: &Arguments, posted: &Emulated, records: &[(&'static str, u64)]) -> Result<()> {
    if arguments.json {
        let mut told = json!({
            "accepted": posted.accepted, "refused": posted.refused.len(), "unposted": posted.unposted, "retried": posted.retried,
        });
        if !records.is_empty() {
            told["records"] = records
                .iter()
                .map(|(name, count)| ((*name).to_owned(), json!(count)))
                .collect();
        }
        return output::json(&told);
    }
    let mut lines = Vec::new();
    if posted.accepted > 0 || !posted.refused.is_empty() || records.is_empty() {
        lines.push(format!(
            "{} pins accepted, {} refused",
            posted.accepted,
            posted.refused.len()
        ));
    }
    let done = if arguments.write.is_some() {
        "written"
    } else {
        "acknowledged"
    };
    lines.extend(
        records
            .iter()
            .map(|(name, count)| format!("{count} records of `{name}` {done}")),
    );
    output::text(&lines.join("\n"))
}

impl From<TopicError> for Failure {
    fn from(error: TopicError) -> Self {
        Self::unreachable(error.to_string())
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
            | emulate::Error::NoPin { .. }
            | emulate::Error::Rate(_)
            | emulate::Error::Url { .. } => Self::invalid(message),
            emulate::Error::Client(_) => Self::failed(message),
        }
    }
}
