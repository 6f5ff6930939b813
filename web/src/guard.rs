//! What stands in front of every handler: who may call (host, origin) and what browsers may do with the answer.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::failure::Failure;

/// Nothing from elsewhere, no inline script or style, no frames, forms only to ourselves.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// A program that is no browser says so with this header (any value) or by sending JSON: a foreign page can do neither
/// without asking first, and nobody answers that question.
const PROGRAM: &str = "x-pinwheel";

/// Refuses requests whose `Host` is not ours: a name that somebody points at 127.0.0.1 (DNS rebinding) would make
/// their page "same origin" with us. `bind` is the address we serve on.
pub(crate) async fn known_host(
    State(bind): State<Option<SocketAddr>>,
    request: Request,
    next: Next,
) -> Response {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|value| value.to_str().ok())
        .or_else(|| {
            request
                .uri()
                .authority()
                .map(|authority| authority.as_str())
        });
    match host {
        Some(host) if is_ours(host, bind) => next.run(request).await,
        _ => Failure::new(StatusCode::MISDIRECTED_REQUEST, "Unknown host")
            .detail("the `Host` of this request is not an address that Pinwheel serves")
            .hint("use http://127.0.0.1 or http://localhost with the port that is served")
            .into_response(),
    }
}

fn is_ours(host: &str, bind: Option<SocketAddr>) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(address, _)| address),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.trim_end_matches('.');
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    name.parse::<IpAddr>().is_ok_and(|address| {
        address.to_canonical().is_loopback()
            || bind.is_some_and(|bind| bind.ip() == address && !address.is_unspecified())
    })
}

/// Refuses unsafe requests that another site's page could have caused.
pub(crate) async fn same_origin(request: Request, next: Next) -> Response {
    if matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    ) || comes_from_us(request.headers())
    {
        return next.run(request).await;
    }
    Failure::new(
        StatusCode::FORBIDDEN,
        "Refused: this request comes from another site",
    )
    .detail("requests that change something are taken from Pinwheel's own pages and from programs")
    .hint("a program sends `Content-Type: application/json` or the header `X-Pinwheel: 1`")
    .into_response()
}

fn comes_from_us(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let origin = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        let host = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        return origin.is_some() && origin == host;
    }
    headers.contains_key(PROGRAM) || is_json(headers)
}

/// Whether the body says that it is JSON.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// Adds the headers that every answer carries.
pub(crate) async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let always = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    let headers = response.headers_mut();
    for (name, value) in always {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers_of(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    name.parse::<HeaderName>().expect("a header name"),
                    value.parse().expect("a header value"),
                )
            })
            .collect()
    }

    #[test]
    fn only_loopback_names_and_the_bind_address_are_hosts() {
        let bind = Some(SocketAddr::from(([10, 1, 2, 3], 8080)));
        for good in [
            "localhost",
            "LocalHost:8080",
            "localhost.",
            "127.0.0.1:9",
            "127.0.0.2",
            "[::1]:8080",
            "10.1.2.3:8080",
        ] {
            assert!(is_ours(good, bind), "{good}");
        }
        for bad in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "10.1.2.4",
            "",
            "0.0.0.0",
        ] {
            assert!(!is_ours(bad, bind), "{bad}");
        }
        assert!(!is_ours(
            "0.0.0.0:80",
            Some(SocketAddr::from(([0, 0, 0, 0], 80)))
        ));
    }

    #[test]
    fn origin_rules_hold() {
        let ours = [
            [
                ("sec-fetch-site", "same-origin"),
                ("host", "localhost:8080"),
            ],
            [("sec-fetch-site", "none"), ("host", "localhost:8080")],
            [
                ("origin", "http://localhost:8080"),
                ("host", "localhost:8080"),
            ],
            [
                ("content-type", "application/json; charset=utf-8"),
                ("host", "localhost:8080"),
            ],
            [("x-pinwheel", "1"), ("host", "localhost:8080")],
        ];
        for case in ours {
            assert!(comes_from_us(&headers_of(&case)), "{case:?}");
        }
        let theirs: [&[(&str, &str)]; 8] = [
            &[("host", "localhost:8080")],
            &[
                ("sec-fetch-site", "cross-site"),
                ("content-type", "application/json"),
            ],
            &[("sec-fetch-site", "same-site"), ("x-pinwheel", "1")],
            &[("origin", "null"), ("host", "localhost:8080")],
            &[
                ("origin", "http://localhost:9999"),
                ("host", "localhost:8080"),
                ("x-pinwheel", "1"),
            ],
            &[
                ("origin", "http://evil.example"),
                ("host", "localhost:8080"),
                ("content-type", "application/json"),
            ],
            &[
                ("content-type", "text/plain; application/json"),
                ("host", "localhost:8080"),
            ],
            &[
                ("content-type", "application/x-www-form-urlencoded"),
                ("host", "localhost:8080"),
            ],
        ];
        for case in theirs {
            assert!(!comes_from_us(&headers_of(case)), "{case:?}");
        }
    }
}
