//! `POST /pins/`: many pins in one request, as a JSON array or as NDJSON, each acknowledged or refused for itself.
//!
//! An item that is wrong does not hold back the others. The answer is 200 when every item is on the topic and 207 when
//! some are not; `results` has one entry per item, in order. A body that is no array and no lines is 422 as a whole.

use std::{fmt::Write, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use rdkafka::producer::future_producer::DeliveryFuture;
use serde_json::{json, value::RawValue};
use tokio::time::Instant;

use super::{
    InFlight, Shared, TURN, Wrong, answer, body, check, is_foreign, pin,
    publisher::{Health, Refused},
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
    let _in_flight = InFlight::new(&shared.metrics.in_flight);
    if is_foreign(request.headers()) {
        return answer::foreign();
    }
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
    let body = match body::read(request, shared.batch_limit).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    // Up to eight megabytes of JSON take longer than a runtime thread may be held.
    let checked = tokio::task::spawn_blocking({
        let shared = Arc::clone(&shared);
        move || {
            let body = body.open(shared.batch_limit)?;
            let items = items(&body).map_err(|wrong| Box::new(answer::invalid(&wrong)))?;
            if items.len() > shared.batch_pins {
                return Err(Box::new(answer::too_many(shared.batch_pins, items.len())));
            }
            let mut under_way = Vec::with_capacity(items.len());
            under_way.extend(items.into_iter().map(|item| enqueue(&shared, item)));
            Ok(under_way)
        }
    });
    let items = match checked.await {
        Ok(Ok(items)) => items,
        Ok(Err(response)) => {
            shared.metrics.posts.with_label_values(&["invalid"]).inc();
            return *response;
        }
        Err(_) => {
            return answer::detail(
                StatusCode::INTERNAL_SERVER_ERROR,
                "The batch could not be checked",
            );
        }
    };
    let mut totals = Totals::default();
    let mut results = String::with_capacity(items.len() * 64);
    for item in items {
        if !results.is_empty() {
            results.push(',');
        }
        settle(&shared, item, &mut totals, &mut results).await;
    }
    shared.metrics.accepted.inc_by(totals.accepted);
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
    respond(&totals, &results)
}

fn respond(totals: &Totals, results: &str) -> Response {
    let Totals {
        accepted,
        invalid,
        unavailable,
    } = totals;
    let status = if *invalid == 0 && *unavailable == 0 {
        StatusCode::OK
    } else {
        StatusCode::MULTI_STATUS
    };
    let body = format!(
        r#"{{"accepted":{accepted},"invalid":{invalid},"unavailable":{unavailable},"results":[{results}]}}"#
    );
    let json = (header::CONTENT_TYPE, "application/json");
    if *unavailable > 0 {
        return (status, [json, (header::RETRY_AFTER, "1")], body).into_response();
    }
    (status, [json], body).into_response()
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

/// Waits for the broker's word on one item and writes the item's result. The text is put together here: a tree of JSON
/// values for each of a hundred thousand items a second costs more than checking them.
async fn settle(shared: &Shared, item: Item, totals: &mut Totals, results: &mut String) {
    let refused = match item {
        Item::Wrong(wrong) => {
            totals.invalid += 1;
            results.push_str(&json!({"status": 422, "detail": wrong}).to_string());
            return;
        }
        Item::Refused(refused) => refused,
        Item::UnderWay(delivery) => match shared.publisher.acknowledged(delivery).await {
            Ok(place) => {
                totals.accepted += 1;
                let written = write!(
                    results,
                    r#"{{"status":200,"topic":{},"partition":{},"offset":{}}}"#,
                    shared.topic_json, place.partition, place.offset
                );
                return written.expect("memory takes everything");
            }
            Err(refused) => refused,
        },
    };
    totals.unavailable += 1;
    let result = match refused {
        Refused::Away { reason } => {
            json!({"status": 503, "detail": format!("Kafka does not acknowledge: {reason}")})
        }
        Refused::Full => {
            json!({"status": 429, "detail": "Too many posts are waiting for Kafka, try again"})
        }
    };
    results.push_str(&result.to_string());
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
