//! The emulator: posts pins to the ingest API as the users of the original pipeline did, and produces the malformed
//! messages that the demo and the tests put beside them.
//!
//! It speaks HTTP like any client would; only [`produce`] and [`produce_malformed`] go straight to a topic. The
//! [`Population`] scales the 200 real pins to any number of rows, and has a place and a user for each of them.

pub mod load;
mod malformed;
mod population;
pub mod python;
pub mod rows;
mod topics;

#[cfg(test)]
mod tests;

use std::{
    io::Write,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures::{StreamExt, stream};
use reqwest::{StatusCode, Url, header};
use serde::Deserialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
pub use malformed::{Malformed, ProduceError, malformed_messages, produce_malformed};
pub use population::{Population, Records};
pub use topics::{ToTopic, TopicError, produce};

/// What to post, where, and how fast.
#[derive(Clone, Debug)]
pub struct EmulateOptions {
    /// The whole address of the endpoint, such as `http://127.0.0.1:8000/pin/`.
    pub url: String,
    /// Where the pins come from.
    pub pins: Source,
    /// Which of them are posted, in which order.
    pub order: Order,
    /// The first pin of the order to post, counted from 0.
    pub skip: usize,
    /// How many to post; `None` posts each once, and for ever in the order of the original emulator.
    pub count: Option<usize>,
    /// Pins a second; `None` is as fast as the server answers, or with the pauses of the original emulator.
    pub rate: Option<f64>,
    /// Pins a request, and whether it is compressed.
    pub form: Form,
    /// How many requests may be waiting for an answer at the same time.
    pub concurrency: usize,
    /// How long one request is tried again while the server is away or busy.
    pub patience: Duration,
}

/// Where pins come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// One JSON object a line. Lines are posted as they are; row r of the source is line r, counted from 0.
    Lines(Arc<str>),
    /// So many rows of a population, from row 0.
    Rows(Arc<Population>, u64),
}

/// Which pins are posted, in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// One after the other, starting over at the end.
    InTurn,
    /// As the original emulator chose them with this seed: a pause of nothing or a second, then any row.
    Original {
        /// The seed of Python's generator.
        seed: u64,
    },
}

/// How a request looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One pin as JSON.
    Single,
    /// So many pins, one a line, for the batch endpoint.
    Batch {
        /// Pins a request, at least 1.
        pins: usize,
        /// Whether the body is sent as it is or compressed.
        encoding: Encoding,
    },
}

/// How a body is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Identity,
    /// `Content-Encoding: gzip`.
    Gzip,
}

impl EmulateOptions {
    /// Posts every line of `pins` once, as fast as possible.
    pub fn new(url: impl Into<String>, pins: impl Into<Arc<str>>) -> Self {
        Self::of(url, Source::Lines(pins.into()))
    }

    /// Posts every pin of a source once, as fast as possible.
    pub fn of(url: impl Into<String>, pins: Source) -> Self {
        Self {
            url: url.into(),
            pins,
            order: Order::InTurn,
            skip: 0,
            count: None,
            rate: None,
            form: Form::Single,
            concurrency: 32,
            patience: Duration::from_secs(60),
        }
    }

    /// Posts every line of a file once, as fast as possible.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or is not UTF-8.
    pub async fn from_file(url: impl Into<String>, file: &Path) -> Result<Self, Error> {
        let read = tokio::fs::read_to_string(file).await;
        let pins = read.map_err(|source| Error::File {
            file: file.display().to_string(),
            source,
        })?;
        Ok(Self::new(url, pins))
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// How many pins were asked for; `None` when there is no end.
    pub wanted: Option<u64>,
    /// How many the server acknowledged.
    pub accepted: u64,
    /// How many it refused.
    pub refused: u64,
    /// How many attempts had to be repeated, because the server was away or busy.
    pub retried: u64,
}

/// What became of the posts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Emulated {
    /// How many the server acknowledged.
    pub accepted: u64,
    /// Those it refused, in the order of the answers.
    pub refused: Vec<Refusal>,
    /// How many were not posted because the run was stopped.
    pub unposted: u64,
    /// How many attempts had to be repeated.
    pub retried: u64,
}

/// A post that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The line of the pin, counted from 1; its row, counted from 0, where it comes from no file.
    pub line: usize,
    /// The status of the answer; `None` when there was none.
    pub status: Option<u16>,
    /// The server's words.
    pub reason: String,
}

/// Why nothing could be posted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read `{file}`: {source}")]
    File {
        /// The file.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no line to post.
    #[error("there are {lines} pins, none is left after skipping {skip}")]
    Nothing {
        /// The number of pins.
        lines: u64,
        /// How many were to be skipped.
        skip: usize,
    },
    /// A line is no pin with an index, so nothing can belong to it.
    #[error("line {line} is no pin with an `index`: {reason}")]
    NoPin {
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The rate is no positive number.
    #[error("`{0}` is no rate, it must be above 0 posts a second")]
    Rate(f64),
    /// The address is not valid.
    #[error("`{url}` is not the address of an ingest API: {reason}")]
    Url {
        /// The address as given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The HTTP client cannot be made.
    #[error("no HTTP client: {0}")]
    Client(reqwest::Error),
    /// The ingest API was not reachable for as long as patience lasted.
    #[error("cannot reach the ingest API at `{url}`: {reason}")]
    Unreachable {
        /// The address.
        url: String,
        /// The last error.
        reason: String,
    },
}

enum Posted {
    Answered {
        accepted: u64,
        refused: Vec<Refusal>,
    },
    Unreachable(String),
    Stopped,
}

/// Posts the pins. `progress` is called after every answer.
///
/// # Errors
///
/// See [`Error`]; a pin that the server refuses is no error but part of the result.
pub async fn run(
    options: EmulateOptions,
    progress: impl Fn(Progress),
    shutdown: CancellationToken,
) -> Result<Emulated, Error> {
    let url = Url::parse(&options.url).map_err(|error| Error::Url {
        url: options.url.clone(),
        reason: error.to_string(),
    })?;
    if let Some(rate) = options.rate
        && !(rate.is_finite() && rate > 0.0)
    {
        return Err(Error::Rate(rate));
    }
    let source = Arc::new(Pins::read(&options.pins));
    if source.is_empty() || (options.order == Order::InTurn && options.skip as u64 >= source.len())
    {
        return Err(Error::Nothing {
            lines: source.len(),
            skip: options.skip,
        });
    }
    let each_once = match options.order {
        Order::InTurn => usize::try_from(source.len())
            .ok()
            .map(|len| len - options.skip),
        // It never ends.
        Order::Original { .. } => None,
    };
    let wanted = options.count.or(each_once);
    let client = client(&url)?;
    let retried = AtomicU64::new(0);
    let post = Post {
        client: &client,
        url: &url,
        patience: options.patience,
        retried: &retried,
        shutdown: &shutdown,
    };

    let pins_each = match options.form {
        Form::Single => 1,
        Form::Batch { pins, .. } => pins.max(1),
    };
    let steps = steps(&options, source.len())
        .skip(options.skip)
        .take(wanted.unwrap_or(usize::MAX));
    let requests = Requests {
        steps,
        pins: Arc::clone(&source),
        pins_each,
    };
    let start = Instant::now();
    let mut pauses = Duration::ZERO;
    let rate = options.rate;
    let form = options.form;
    let answers = stream::iter(requests.enumerate())
        .map(|(position, request)| {
            pauses += request.pause;
            let due = match rate {
                Some(rate) => Duration::from_secs_f64((position * pins_each) as f64 / rate),
                None => pauses,
            };
            (start + due, request)
        })
        .then(async |(due, request)| {
            if due > start {
                tokio::time::sleep_until(due).await;
            }
            request
        })
        .take_until(shutdown.cancelled())
        .map(|request| post.request(request, form))
        .buffer_unordered(options.concurrency.max(1));
    let mut answers = std::pin::pin!(answers);

    let mut emulated = Emulated::default();
    let wanted = wanted.map(|wanted| u64::try_from(wanted).expect("a count fits 64 bits"));
    while let Some(posted) = answers.next().await {
        match posted {
            Posted::Answered { accepted, refused } => {
                emulated.accepted += accepted;
                emulated.refused.extend(refused);
            }
            Posted::Unreachable(reason) => {
                return Err(Error::Unreachable {
                    url: options.url,
                    reason,
                });
            }
            Posted::Stopped => {}
        }
        progress(Progress {
            wanted,
            accepted: emulated.accepted,
            refused: emulated.refused.len() as u64,
            retried: retried.load(Ordering::Relaxed),
        });
    }
    emulated.unposted = wanted.map_or(0, |wanted| {
        wanted.saturating_sub(emulated.accepted + emulated.refused.len() as u64)
    });
    emulated.retried = retried.load(Ordering::Relaxed);
    Ok(emulated)
}

/// What [`run`] posts with these options, as the `index` of each pin, with its pauses: what belongs to a pin is
/// produced by it.
///
/// # Errors
///
/// When a line of the source is no pin.
pub fn indices(
    options: &EmulateOptions,
) -> Result<impl Iterator<Item = rows::Choice> + Send + 'static, Error> {
    let known: Option<Vec<u64>> = match &options.pins {
        Source::Rows(..) => None,
        Source::Lines(text) => {
            let lines = text.lines().enumerate();
            let pins = lines.filter(|(_, line)| !line.trim().is_empty());
            Some(
                pins.map(|(at, line)| index(at + 1, line))
                    .collect::<Result<_, _>>()?,
            )
        }
    };
    let rows = Pins::read(&options.pins).len();
    let count = match (options.count, options.order) {
        (Some(count), _) => count,
        (None, Order::Original { .. }) => usize::MAX,
        (None, Order::InTurn) => usize::try_from(rows)
            .unwrap_or(usize::MAX)
            .saturating_sub(options.skip),
    };
    let steps = steps(options, rows).skip(options.skip).take(count);
    Ok(steps.map(move |step| rows::Choice {
        pause: step.pause,
        row: match &known {
            None => step.row,
            Some(known) => known[usize::try_from(step.row).unwrap_or_default()],
        },
    }))
}

fn index(line: usize, text: &str) -> Result<u64, Error> {
    #[derive(Deserialize)]
    struct Indexed {
        index: u64,
    }
    let pin: Indexed = serde_json::from_str(text).map_err(|error| Error::NoPin {
        line,
        reason: error.to_string(),
    })?;
    Ok(pin.index)
}

/// The pauses and rows that the options ask for, without end.
fn steps(options: &EmulateOptions, rows: u64) -> Box<dyn Iterator<Item = rows::Choice> + Send> {
    match options.order {
        Order::InTurn => Box::new(rows::in_turn((0..rows).cycle())),
        Order::Original { seed } => Box::new(rows::chosen(seed, rows)),
    }
}

/// The rows of a source.
enum Pins {
    /// Each with its number in the file, counted from 1.
    Lines(Vec<(usize, Bytes)>),
    Rows(Arc<Population>, u64),
}

impl Pins {
    fn read(source: &Source) -> Self {
        match source {
            Source::Lines(text) => Self::Lines(
                text.lines()
                    .enumerate()
                    .filter(|(_, line)| !line.trim().is_empty())
                    .map(|(number, line)| (number + 1, Bytes::copy_from_slice(line.as_bytes())))
                    .collect(),
            ),
            Source::Rows(population, rows) => Self::Rows(Arc::clone(population), *rows),
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::Lines(lines) => lines.len() as u64,
            Self::Rows(_, rows) => *rows,
        }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pin of a row, and the line or the row by which people find it.
    fn pin(&self, row: u64) -> (usize, Bytes) {
        let at = usize::try_from(row).unwrap_or(usize::MAX);
        match self {
            Self::Lines(lines) => lines[at].clone(),
            Self::Rows(population, _) => (at, Bytes::from(population.record(Records::Pins, row))),
        }
    }
}

/// What goes into one request.
struct Request {
    /// How long to wait before it, after the one before.
    pause: Duration,
    pins: Vec<(usize, Bytes)>,
}

struct Requests<I> {
    steps: I,
    pins: Arc<Pins>,
    pins_each: usize,
}

impl<I: Iterator<Item = rows::Choice>> Iterator for Requests<I> {
    type Item = Request;

    fn next(&mut self) -> Option<Request> {
        let mut request = Request {
            pause: Duration::ZERO,
            pins: Vec::with_capacity(self.pins_each.min(10_000)),
        };
        for step in self.steps.by_ref().take(self.pins_each) {
            request.pause += step.pause;
            request.pins.push(self.pins.pin(step.row));
        }
        (!request.pins.is_empty()).then_some(request)
    }
}

fn client(url: &Url) -> Result<reqwest::Client, Error> {
    let builder = reqwest::Client::builder()
        .timeout(Duration::from_secs(30))
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true);
    let loopback = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    let builder = if loopback {
        builder.no_proxy()
    } else {
        builder
    };
    builder.build().map_err(Error::Client)
}

struct Post<'a> {
    client: &'a reqwest::Client,
    url: &'a Url,
    patience: Duration,
    retried: &'a AtomicU64,
    shutdown: &'a CancellationToken,
}

impl Post<'_> {
    async fn request(&self, request: Request, form: Form) -> Posted {
        match form {
            Form::Single => {
                let mut posted = Posted::Stopped;
                for (line, body) in request.pins {
                    posted = self.until_answered(line, body).await;
                }
                posted
            }
            Form::Batch { encoding, .. } => self.batch(request.pins, encoding).await,
        }
    }

    async fn until_answered(&self, line: usize, body: Bytes) -> Posted {
        let mut tries = Tries::new(self.patience);
        loop {
            let sent = self.send(body.clone(), Encoding::Identity).await;
            let (wait, gave_up) = match sent {
                Ok(answer) if answer.status().is_success() => {
                    return Posted::Answered {
                        accepted: 1,
                        refused: Vec::new(),
                    };
                }
                Ok(answer) => {
                    let is_passing = is_passing(answer.status());
                    let wait = retry_after(&answer);
                    let refused = Posted::Answered {
                        accepted: 0,
                        refused: vec![refusal(line, answer).await],
                    };
                    if !is_passing {
                        return refused;
                    }
                    (wait, refused)
                }
                Err(error) if error.is_builder() => return Posted::Unreachable(root_cause(&error)),
                Err(error) => (None, Posted::Unreachable(root_cause(&error))),
            };
            match self.again(&mut tries, wait).await {
                Again::Try => {}
                Again::GiveUp => return gave_up,
                Again::Stop => return Posted::Stopped,
            }
        }
    }

    /// Posts a batch until no item of it is held back by a broker that is away or busy.
    async fn batch(&self, mut pins: Vec<(usize, Bytes)>, encoding: Encoding) -> Posted {
        let mut tries = Tries::new(self.patience);
        let mut accepted = 0;
        let mut refused = Vec::new();
        loop {
            let lines: Vec<&[u8]> = pins.iter().map(|(_, pin)| &pin[..]).collect();
            let sent = self.send(Bytes::from(lines.join(&b'\n')), encoding).await;
            let (wait, gave_up) = match sent {
                Ok(answer) if answer.status().is_success() => {
                    let wait = retry_after(&answer);
                    let status = answer.status();
                    let items = match answer.json::<BatchAnswer>().await {
                        Ok(answer) => answer.results,
                        Err(error) => return Posted::Unreachable(root_cause(&error)),
                    };
                    let mut left = Vec::new();
                    let mut reason = String::new();
                    for ((line, pin), item) in pins.into_iter().zip(items) {
                        match StatusCode::from_u16(item.status).unwrap_or(status) {
                            StatusCode::OK => accepted += 1,
                            passing if is_passing(passing) => {
                                reason = item.detail.to_string();
                                left.push((line, pin));
                            }
                            wrong => refused.push(Refusal {
                                line,
                                status: Some(wrong.as_u16()),
                                reason: item.detail.to_string().chars().take(200).collect(),
                            }),
                        }
                    }
                    if left.is_empty() {
                        return Posted::Answered { accepted, refused };
                    }
                    pins = left;
                    (wait, reason)
                }
                Ok(answer) => {
                    let is_passing = is_passing(answer.status());
                    let wait = retry_after(&answer);
                    let first = pins.first().map_or(0, |(line, _)| *line);
                    let whole = refusal(first, answer).await;
                    if !is_passing {
                        refused.extend(pins.iter().map(|(line, _)| Refusal {
                            line: *line,
                            ..whole.clone()
                        }));
                        return Posted::Answered { accepted, refused };
                    }
                    (wait, whole.reason)
                }
                Err(error) if error.is_builder() => return Posted::Unreachable(root_cause(&error)),
                Err(error) => (None, root_cause(&error)),
            };
            match self.again(&mut tries, wait).await {
                Again::Try => {}
                Again::GiveUp => return Posted::Unreachable(gave_up),
                Again::Stop => return Posted::Stopped,
            }
        }
    }

    async fn send(&self, body: Bytes, encoding: Encoding) -> reqwest::Result<reqwest::Response> {
        let request = self
            .client
            .post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json");
        let request = match encoding {
            Encoding::Identity => request.body(body),
            Encoding::Gzip => request
                .header(header::CONTENT_ENCODING, "gzip")
                .body(compressed(&body)),
        };
        request.send().await
    }

    /// Waits before the next try, if there may be one.
    async fn again(&self, tries: &mut Tries, wait: Option<Duration>) -> Again {
        let wait = wait.unwrap_or_else(|| tries.backoff.next());
        if Instant::now() + wait > tries.deadline {
            return Again::GiveUp;
        }
        self.retried.fetch_add(1, Ordering::Relaxed);
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Again::Stop,
            () = tokio::time::sleep(wait) => Again::Try,
        }
    }
}

struct Tries {
    deadline: Instant,
    backoff: Backoff,
}

impl Tries {
    fn new(patience: Duration) -> Self {
        Self {
            deadline: Instant::now() + patience,
            backoff: Backoff::new(),
        }
    }
}

enum Again {
    Try,
    GiveUp,
    Stop,
}

#[derive(Deserialize)]
struct BatchAnswer {
    results: Vec<ItemAnswer>,
}

#[derive(Deserialize)]
struct ItemAnswer {
    status: u16,
    #[serde(default)]
    detail: serde_json::Value,
}

/// Whether the same post may be accepted later.
fn is_passing(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    )
}

async fn refusal(line: usize, answer: reqwest::Response) -> Refusal {
    Refusal {
        line,
        status: Some(answer.status().as_u16()),
        reason: reason(answer).await,
    }
}

/// The body as gzip, quickly rather than tightly.
fn compressed(body: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::with_capacity(body.len() / 2), Compression::fast());
    gzip.write_all(body).expect("memory takes everything");
    gzip.finish().expect("memory takes everything")
}

fn retry_after(answer: &reqwest::Response) -> Option<Duration> {
    let seconds = answer
        .headers()
        .get(header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds).min(Duration::from_secs(30)))
}

/// The first two hundred characters of what the server said.
async fn reason(answer: reqwest::Response) -> String {
    let status = answer.status();
    match answer.text().await {
        Ok(text) if !text.trim().is_empty() => text.trim().chars().take(200).collect(),
        _ => status.to_string(),
    }
}

fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
