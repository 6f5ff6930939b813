//! `POST /pins/`: many pins in one request, as a JSON array or as NDJSON, each acknowledged or refused for itself.
//!
//! An item that is wrong does not hold back the others. The answer is 200 when every item is on the topic and 207 when
//! some are not; `results` has one entry per item, in order. A body that is no array and no lines is 422 as a whole.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use rdkafka::producer::future_producer::DeliveryFuture;
use serde_json::{Value, json, value::RawValue};
use tokio::time::Instant;

use super::{
    Shared, TURN, Wrong, answer, check, pin,
    publisher::{Health, Refused},
    read_body,
};

enum Item {
    Wrong(Vec<Wrong>),
    Refused(Refused),
    UnderWay(DeliveryFuture),
}

#[derive(Default)]
struct Totals {
    accepted: u64,
    invalid: u64,
    unavailable: u64,
}

pub(super) async fn post_pins(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let started = Instant::now();
    let Ok(Ok(_turn)) = tokio::time::timeout(TURN, shared.batches.acquire()).await else {
        return answer::busy(&shared, 1);
    };
    if let Health::Away { reason } = shared.publisher.health() {
        shared
            .metrics
            .posts
            .with_label_values(&["unavailable"])
            .inc();
        return answer::unavailable(&reason);
    }
    let body = match read_body(request, shared.batch_limit).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    // Up to eight megabytes of JSON take longer than a runtime thread may be held.
    let checked = tokio::task::spawn_blocking({
        let shared = Arc::clone(&shared);
        move || {
            items(&body).map(|items| {
                items
                    .into_iter()
                    .map(|item| enqueue(&shared, item))
                    .collect::<Vec<_>>()
            })
        }
    });
    let items = match checked.await {
        Ok(Ok(items)) => items,
        Ok(Err(wrong)) => {
            shared.metrics.posts.with_label_values(&["invalid"]).inc();
            return answer::invalid(&wrong);
        }
        Err(_) => {
            return answer::detail(
                StatusCode::INTERNAL_SERVER_ERROR,
                "The batch could not be checked",
            );
        }
    };
    let mut totals = Totals::default();
    let mut results = Vec::with_capacity(items.len());
    for item in items {
        let result = settle(&shared, item, &mut totals).await;
        results.push(result);
    }
    shared
        .metrics
        .posts
        .with_label_values(&["accepted"])
        .inc_by(totals.accepted);
    shared
        .metrics
        .posts
        .with_label_values(&["invalid"])
        .inc_by(totals.invalid);
    shared
        .metrics
        .posts
        .with_label_values(&["unavailable"])
        .inc_by(totals.unavailable);
    shared
        .metrics
        .acknowledged
        .observe(started.elapsed().as_secs_f64());
    respond(&totals, results)
}

fn respond(totals: &Totals, results: Vec<Value>) -> Response {
    let status = if totals.invalid == 0 && totals.unavailable == 0 {
        StatusCode::OK
    } else {
        StatusCode::MULTI_STATUS
    };
    let body = Json(json!({
        "accepted": totals.accepted,
        "invalid": totals.invalid,
        "unavailable": totals.unavailable,
        "results": results,
    }));
    if totals.unavailable > 0 {
        return (status, [(header::RETRY_AFTER, "1")], body).into_response();
    }
    (status, body).into_response()
}

fn enqueue(shared: &Shared, item: &[u8]) -> Item {
    if item.len() > shared.body_limit {
        return Item::Wrong(vec![Wrong {
            kind: "too_large",
            loc: vec![json!("body")],
            msg: format!("The pin is larger than {} bytes", shared.body_limit),
            ctx: None,
        }]);
    }
    match check(item) {
        Err(wrong) => Item::Wrong(wrong),
        Ok(key) => shared
            .publisher
            .enqueue(&key, item)
            .map_or_else(Item::Refused, Item::UnderWay),
    }
}

async fn settle(shared: &Shared, item: Item, totals: &mut Totals) -> Value {
    let refused = match item {
        Item::Wrong(wrong) => {
            totals.invalid += 1;
            return json!({"status": 422, "detail": wrong});
        }
        Item::Refused(refused) => refused,
        Item::UnderWay(delivery) => match shared.publisher.acknowledged(delivery).await {
            Ok(place) => {
                totals.accepted += 1;
                return json!({"status": 200, "topic": shared.topic, "partition": place.partition, "offset": place.offset});
            }
            Err(refused) => refused,
        },
    };
    totals.unavailable += 1;
    match refused {
        Refused::Away { reason } => {
            json!({"status": 503, "detail": format!("Kafka does not acknowledge: {reason}")})
        }
        Refused::Full => {
            json!({"status": 429, "detail": "Too many posts are waiting for Kafka, try again"})
        }
    }
}

/// Cuts a body into items without changing a byte of them.
fn items(body: &[u8]) -> Result<Vec<&[u8]>, Vec<Wrong>> {
    if body.trim_ascii().is_empty() {
        return Err(vec![Wrong {
            kind: "missing",
            loc: vec![json!("body")],
            msg: "The body should be a JSON array of pins, or one pin a line".to_owned(),
            ctx: None,
        }]);
    }
    if body.trim_ascii_start().first() != Some(&b'[') {
        return Ok(body
            .split(|byte| *byte == b'\n')
            .map(<[u8]>::trim_ascii)
            .filter(|line| !line.is_empty())
            .collect());
    }
    let text = std::str::from_utf8(body).map_err(|error| {
        vec![Wrong {
            kind: "json_invalid",
            loc: vec![json!("body"), json!(error.valid_up_to())],
            msg: format!("The body is not UTF-8 from byte {} on", error.valid_up_to()),
            ctx: None,
        }]
    })?;
    let items: Vec<&RawValue> =
        serde_json::from_str(text).map_err(|error| vec![pin::not_json(text, &error)])?;
    Ok(items
        .into_iter()
        .map(|item| item.get().as_bytes())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_keep_every_byte() {
        let array = items(b" [ {\"a\":  1.50} , {\"b\":\"\\u00e9\"} ]").expect("an array");
        assert_eq!(array, [&b"{\"a\":  1.50}"[..], b"{\"b\":\"\\u00e9\"}"]);
        let lines = items(b"{\"a\": 1}\r\n\n{oops}\n").expect("lines");
        assert_eq!(lines, [&b"{\"a\": 1}"[..], b"{oops}"]);
        assert_eq!(items(b"[]").expect("an empty array").len(), 0);
    }

    #[test]
    fn a_body_that_is_no_batch_is_refused() {
        assert_eq!(items(b" \n ").expect_err("empty")[0].kind, "missing");
        let wrong = items(b"[{},\n oops]").expect_err("broken");
        assert_eq!(wrong[0].ctx.as_ref().expect("context")["line"], 2);
    }
}
