//! The body of a request: read within its limits of size and time, and opened if it is compressed.
//!
//! The limit holds for what a body says it has, for what arrives, and for what it becomes: a few kilobytes that
//! inflate to gigabytes are refused as soon as they pass it.

use std::{io::Read, time::Duration};

use axum::{
    body::Bytes,
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use flate2::bufread::MultiGzDecoder;

use super::answer;

/// How long a request may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A body as it arrived.
pub(super) struct Body {
    bytes: Bytes,
    encoding: Encoding,
}

enum Encoding {
    Identity,
    Gzip,
}

/// Reads a body of at most `limit` bytes.
pub(super) async fn read(request: Request, limit: usize) -> Result<Body, Response> {
    let encoding = encoding(request.headers()).map_err(|answer| *answer)?;
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(answer::too_large(limit));
    }
    let body = axum::body::to_bytes(request.into_body(), limit);
    match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Err(_) => Err(answer::detail(
            StatusCode::REQUEST_TIMEOUT,
            "The body did not arrive within 10 seconds",
        )),
        Ok(Ok(bytes)) => Ok(Body { bytes, encoding }),
        Ok(Err(error)) if is_length_limit(&error) => Err(answer::too_large(limit)),
        Ok(Err(_)) => Err(answer::detail(
            StatusCode::BAD_REQUEST,
            "The body ended before it was complete",
        )),
    }
}

impl Body {
    /// What the client meant, at most `limit` bytes. Works for as long as inflating takes.
    pub(super) fn open(self, limit: usize) -> Result<Bytes, Box<Response>> {
        match self.encoding {
            Encoding::Identity => Ok(self.bytes),
            Encoding::Gzip => inflate(&self.bytes, limit),
        }
    }
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Box<Response>> {
    let Some(named) = headers.get(header::CONTENT_ENCODING) else {
        return Ok(Encoding::Identity);
    };
    if named.as_bytes().eq_ignore_ascii_case(b"identity") {
        return Ok(Encoding::Identity);
    }
    if named.as_bytes().eq_ignore_ascii_case(b"gzip") {
        return Ok(Encoding::Gzip);
    }
    let answer = answer::detail(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "The body may be sent as it is or with gzip",
    );
    let gzip = HeaderValue::from_static("gzip");
    Err(Box::new(
        ([(header::ACCEPT_ENCODING, gzip)], answer).into_response(),
    ))
}

fn inflate(bytes: &[u8], limit: usize) -> Result<Bytes, Box<Response>> {
    let mut opened = Vec::with_capacity(bytes.len().saturating_mul(4).min(limit));
    let mut gzip = MultiGzDecoder::new(bytes).take(limit as u64 + 1);
    match gzip.read_to_end(&mut opened) {
        Ok(_) if opened.len() > limit => Err(Box::new(answer::too_large(limit))),
        Ok(_) => Ok(opened.into()),
        Err(error) => Err(Box::new(answer::detail(
            StatusCode::BAD_REQUEST,
            &format!("The body is not valid gzip: {error}"),
        ))),
    }
}

fn is_length_limit(error: &axum::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        // The type behind the limit is not exported by axum; its words are stable and tested here.
        if error.to_string() == "length limit exceeded" {
            return true;
        }
        source = error.source();
    }
    false
}
