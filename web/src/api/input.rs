//! What programs send: JSON bodies and queries, read strictly, refused with a sentence.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Query, Request},
    http::{StatusCode, request::Parts},
};
use serde::de::DeserializeOwned;

use crate::{failure::Failure, guard};

/// A JSON body; an empty one is the default.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let json = guard::is_json(request.headers());
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| {
                let status = rejection.status();
                Failure::new(status, "The body cannot be read")
                    .detail(rejection.body_text())
                    .hint("a body has at most 1 MiB")
            })?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        if !json {
            return Err(
                Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body is not JSON")
                    .detail("a body must come with `Content-Type: application/json`"),
            );
        }
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            let (status, title) = if error.is_data() {
                (StatusCode::UNPROCESSABLE_ENTITY, "The body does not fit")
            } else {
                (StatusCode::BAD_REQUEST, "The body is not JSON")
            };
            Failure::new(status, title)
                .detail(error.to_string())
                .hint("`/api/v1/openapi.json` says what is expected")
        })
    }
}

/// A JSON body that must be there.
pub(crate) struct RequiredBody<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for RequiredBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let Body(body) = Body::<Option<T>>::from_request(request, state).await?;
        body.map(Self).ok_or_else(|| {
            Failure::new(StatusCode::UNPROCESSABLE_ENTITY, "The body does not fit")
                .detail("there is none")
                .hint("`/api/v1/openapi.json` says what is expected")
        })
    }
}

/// The query of an address, unknown names refused.
pub(crate) struct Asked<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        Query::<T>::try_from_uri(&parts.uri)
            .map(|Query(asked)| Self(asked))
            .map_err(|rejection| {
                Failure::new(StatusCode::BAD_REQUEST, "The query does not fit")
                    .detail(rejection.body_text())
                    .hint("`/api/v1/openapi.json` says which names there are")
            })
    }
}

/// A page size: what was asked for, between 1 and `most`.
pub(crate) fn page_size(asked: Option<i64>, default: i64, most: i64) -> Result<i64, Failure> {
    match asked {
        None => Ok(default),
        Some(limit) if (1..=most).contains(&limit) => Ok(limit),
        Some(limit) => Err(
            Failure::new(StatusCode::BAD_REQUEST, "The query does not fit")
                .detail(format!("`limit` is {limit}, it must be 1 to {most}")),
        ),
    }
}
