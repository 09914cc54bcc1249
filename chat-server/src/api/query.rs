//! The query parameters of calls.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::body::bad_field;
use crate::refusal::Refusal;

/// The query parameters of a call; further ones are refused.
pub(super) struct Params<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => Err(bad_field(rejection.body_text())),
        }
    }
}

/// The number of entries that a page has at most: `given`, from 1 to `max`.
pub(super) fn limit(given: Option<u32>, default: u32, max: u32) -> Result<u32, Refusal> {
    let limit = given.unwrap_or(default);
    if (1..=max).contains(&limit) {
        return Ok(limit);
    }
    Err(bad_field(format!("\"limit\" is a number from 1 to {max}.")))
}
