//! The emulator: posts pins to the ingest API as the users of the original pipeline did, and produces the malformed
//! messages that the demo and the tests put beside them.
//!
//! It speaks HTTP like any client would; only [`produce_malformed`] goes straight to the topic.

mod malformed;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use reqwest::{StatusCode, Url, header};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
pub use malformed::{Malformed, ProduceError, malformed_messages, produce_malformed};

/// What to post, where, and how fast.
#[derive(Clone, Debug)]
pub struct EmulateOptions {
    /// The whole address of the endpoint, such as `http://127.0.0.1:8000/pin/`.
    pub url: String,
    /// The pins, one JSON object a line. Lines are posted as they are.
    pub pins: Arc<str>,
    /// The first line to post, counted from 0.
    pub skip: usize,
    /// How many to post, starting over at the end of the lines; `None` posts every line once.
    pub count: Option<usize>,
    /// Posts a second; `None` is as fast as the server answers.
    pub rate: Option<f64>,
    /// How many posts may be waiting for an answer at the same time.
    pub concurrency: usize,
    /// How long one post is tried again while the server is away or busy.
    pub patience: Duration,
}

impl EmulateOptions {
    /// Posts every line of `pins` once, as fast as possible.
    pub fn new(url: impl Into<String>, pins: impl Into<Arc<str>>) -> Self {
        Self {
            url: url.into(),
            pins: pins.into(),
            skip: 0,
            count: None,
            rate: None,
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
    /// How many posts were asked for.
    pub wanted: u64,
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
    /// The line of the pin, counted from 1.
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
        /// The number of lines that are not empty.
        lines: usize,
        /// How many were to be skipped.
        skip: usize,
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
    Accepted,
    Refused(Refusal),
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
    let lines: Vec<(usize, Bytes)> = options
        .pins
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| (number + 1, Bytes::copy_from_slice(line.as_bytes())))
        .collect();
    if options.skip >= lines.len() {
        return Err(Error::Nothing {
            lines: lines.len(),
            skip: options.skip,
        });
    }
    let wanted = options.count.unwrap_or(lines.len() - options.skip);
    let client = client(&url)?;
    let retried = AtomicU64::new(0);
    let post = Post {
        client: &client,
        url: &url,
        patience: options.patience,
        retried: &retried,
        shutdown: &shutdown,
    };

    let start = Instant::now();
    let rate = options.rate;
    let chosen = lines
        .iter()
        .cycle()
        .skip(options.skip)
        .take(wanted)
        .cloned()
        .enumerate();
    let answers = stream::iter(chosen)
        .then(async |(position, line)| {
            if let Some(rate) = rate {
                tokio::time::sleep_until(start + Duration::from_secs_f64(position as f64 / rate))
                    .await;
            }
            line
        })
        .take_until(shutdown.cancelled())
        .map(|(number, body)| post.until_answered(number, body))
        .buffer_unordered(options.concurrency.max(1));
    let mut answers = std::pin::pin!(answers);

    let mut emulated = Emulated::default();
    let wanted = u64::try_from(wanted).expect("a count of lines fits 64 bits");
    while let Some(posted) = answers.next().await {
        match posted {
            Posted::Accepted => emulated.accepted += 1,
            Posted::Refused(refusal) => emulated.refused.push(refusal),
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
    emulated.unposted = wanted - emulated.accepted - emulated.refused.len() as u64;
    emulated.retried = retried.load(Ordering::Relaxed);
    Ok(emulated)
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
    async fn until_answered(&self, line: usize, body: Bytes) -> Posted {
        let deadline = Instant::now() + self.patience;
        let mut backoff = Backoff::new();
        loop {
            let sent = self
                .client
                .post(self.url.clone())
                .header(header::CONTENT_TYPE, "application/json")
                .body(body.clone())
                .send()
                .await;
            let (wait, gave_up) = match sent {
                Ok(answer) if answer.status().is_success() => return Posted::Accepted,
                Ok(answer) => {
                    let status = answer.status();
                    let wait = retry_after(&answer);
                    let refusal = Refusal {
                        line,
                        status: Some(status.as_u16()),
                        reason: reason(answer).await,
                    };
                    match status {
                        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => (
                            wait.unwrap_or_else(|| backoff.next()),
                            Posted::Refused(refusal),
                        ),
                        _ => return Posted::Refused(refusal),
                    }
                }
                Err(error) if error.is_builder() => return Posted::Unreachable(root_cause(&error)),
                Err(error) => (backoff.next(), Posted::Unreachable(root_cause(&error))),
            };
            if Instant::now() + wait > deadline {
                return gave_up;
            }
            self.retried.fetch_add(1, Ordering::Relaxed);
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Posted::Stopped,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
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
