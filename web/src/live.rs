//! Live pages: a stream of server-sent events that carries the parts of a page that changed.
//!
//! A part (*region*) is rendered by the very template that made the page. It is rendered again when the engine says that
//! something changed, at most every [`PAUSE`], and sent only when its content differs from what the browser has.

use std::{collections::BTreeMap, convert::Infallible, future::Future, time::Duration};

use askama::Template;
use axum::response::{
    IntoResponse, Response,
    sse::{Event, KeepAlive, Sse},
};
use futures::stream;
use pinwheel_scheduler::engine::Changes;
use prometheus::IntGauge;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::{WebState, assets::fingerprint, failure::Failure};

/// The least time between two looks at the database for one browser tab.
const PAUSE: Duration = Duration::from_millis(200);
/// Look again even if nobody rang: a page must not stay wrong for longer.
const DOUBT: Duration = Duration::from_secs(15);

/// A part of a page that is replaced when it changes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Region {
    pub(crate) name: &'static str,
    /// Made by a template, so everything in it is escaped.
    pub(crate) html: Html,
}

/// HTML that a template made.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Html(String);

impl Html {
    pub(crate) fn of(template: &impl Template) -> Result<Self, Failure> {
        Ok(Self(template.render()?))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Html {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}
impl askama::filters::HtmlSafe for Html {}

/// The live parts of a page, and the address that keeps them fresh.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    /// The address of the event stream, with the fingerprint of what the page holds.
    pub(crate) address: String,
    pub(crate) regions: Vec<Region>,
}

impl Live {
    /// `address` may carry a query already.
    pub(crate) fn new(address: &str, regions: Vec<Region>) -> Self {
        let glue = if address.contains('?') { '&' } else { '?' };
        let address = format!("{address}{glue}seen={:016x}", summary(&regions));
        Self { address, regions }
    }
}

/// What a live connection is told by the page.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Seen {
    /// The fingerprint of what the page holds.
    #[serde(default)]
    pub(crate) seen: String,
    /// Whether the page shows the groups of a DAG opened.
    #[serde(default)]
    pub(crate) groups: crate::pages::run::Groups,
}

fn summary(regions: &[Region]) -> u64 {
    regions.iter().fold(0, |sum, region| {
        sum.rotate_left(7) ^ fingerprint(region.html.as_str())
    })
}

/// Keeps one live connection counted while it is open.
pub(crate) struct Connection {
    _place: OwnedSemaphorePermit,
    open: IntGauge,
    changes: Changes,
    stop: CancellationToken,
    /// Look again after so long even if nobody rang.
    doubt: Duration,
    looks: u64,
}

impl Connection {
    pub(crate) fn open(state: &WebState) -> Result<Self, Failure> {
        let place = state.live_permit()?;
        let open = state.metrics.live.clone();
        open.inc();
        Ok(Self {
            _place: place,
            open,
            changes: state.changes.clone(),
            stop: state.stop.clone(),
            doubt: DOUBT,
            looks: 0,
        })
    }

    /// Waits until there may be something new; changes that come close together are one. `false` when the process stops.
    pub(crate) async fn wait(&mut self) -> bool {
        self.looks += 1;
        if self.looks == 1 {
            // What the page holds may be older than this connection.
            return true;
        }
        tokio::time::sleep(PAUSE).await;
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            () = self.changes.next() => true,
            () = tokio::time::sleep(self.doubt) => true,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.dec();
    }
}

struct Follow<R> {
    connection: Connection,
    render: R,
    sent: BTreeMap<&'static str, u64>,
    seen: Option<u64>,
}

/// Streams the regions that `render` gives, as they change. An error is told to the page and tried again.
pub(crate) fn follow<R, F>(state: &WebState, seen: &Seen, render: R) -> Result<Response, Failure>
where
    R: Fn() -> F + Send + 'static,
    F: Future<Output = Result<Vec<Region>, Failure>> + Send + 'static,
{
    follow_on(Connection::open(state)?, seen, render)
}

/// The same for what changes without the engine's knowledge: it is rendered again every second.
pub(crate) fn follow_each_second<R, F>(
    state: &WebState,
    seen: &Seen,
    render: R,
) -> Result<Response, Failure>
where
    R: Fn() -> F + Send + 'static,
    F: Future<Output = Result<Vec<Region>, Failure>> + Send + 'static,
{
    let mut connection = Connection::open(state)?;
    connection.doubt = Duration::from_secs(1);
    follow_on(connection, seen, render)
}

fn follow_on<R, F>(connection: Connection, seen: &Seen, render: R) -> Result<Response, Failure>
where
    R: Fn() -> F + Send + 'static,
    F: Future<Output = Result<Vec<Region>, Failure>> + Send + 'static,
{
    let follow = Follow {
        connection,
        render,
        sent: BTreeMap::new(),
        seen: u64::from_str_radix(&seen.seen, 16).ok(),
    };
    let events = stream::unfold(follow, |mut follow| async move {
        loop {
            if !follow.connection.wait().await {
                return None;
            }
            let event = match (follow.render)().await {
                Ok(regions) => follow.difference(&regions),
                Err(failure) => Some(
                    Event::default()
                        .event("trouble")
                        .data(failure.problem().title.replace(['\r', '\n'], " ")),
                ),
            };
            if let Some(event) = event {
                return Some((Ok::<_, Infallible>(event), follow));
            }
        }
    });
    Ok(answer(events))
}

impl<R> Follow<R> {
    fn difference(&mut self, regions: &[Region]) -> Option<Event> {
        let known = self.seen.take() == Some(summary(regions));
        let mut changed = serde_json::Map::new();
        for region in regions {
            let print = fingerprint(region.html.as_str());
            if self.sent.insert(region.name, print) != Some(print) && !known {
                changed.insert(region.name.to_owned(), region.html.as_str().into());
            }
        }
        (!changed.is_empty()).then(|| {
            Event::default()
                .event("changed")
                .data(serde_json::Value::Object(changed).to_string())
        })
    }
}

/// A stream of events as an answer, with a sign of life while nothing happens.
pub(crate) fn answer(
    events: impl futures::Stream<Item = Result<Event, Infallible>> + Send + 'static,
) -> Response {
    Sse::new(events)
        .keep_alive(
            KeepAlive::new()
                .interval(Duration::from_secs(10))
                .event(Event::default().event("alive").data("1")),
        )
        .into_response()
}
