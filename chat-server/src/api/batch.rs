//! Several calls in one request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body as HttpBody, to_bytes};
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use axum::{Json, Router};
use futures_util::{StreamExt, stream};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::body::{Body, Object, bad_field, missing};
use super::{Caller, CallerAddress};
use crate::refusal::Refusal;

/// The most calls of a batch.
const MAX_CALLS: usize = 100;

/// Calls of different rooms that are made at a time.
const SIDE_BY_SIDE: usize = 16;

/// Bytes of answers above which the calls that remain are refused.
const MAX_ANSWERS: usize = 8 * 1024 * 1024;

/// Calls to make: those to one room, or to one user, one after another, and others side by side.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct BatchRequest {
    /// The calls, at most 100.
    #[cfg_attr(test, schema(required, value_type = Vec<CallRequest>, max_items = 100))]
    calls: Option<Vec<Object<CallRequest>>>,
}

/// A call of a batch: every one but a batch, an export and the OpenAPI document.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct CallRequest {
    #[cfg_attr(test, schema(required, value_type = String, example = "POST"))]
    method: Option<String>,
    /// The path below `/api`, with its query.
    #[cfg_attr(test, schema(required, value_type = String, example = "/rooms/a/messages"))]
    path: Option<String>,
    #[cfg_attr(test, schema(value_type = Option<serde_json::Value>))]
    body: Option<Box<RawValue>>,
}

/// The answers, in the order of the calls.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct BatchAnswer {
    results: Vec<CallAnswer>,
}

/// The answer to one call.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub(super) struct CallAnswer {
    status: u16,
    #[cfg_attr(test, schema(value_type = serde_json::Value))]
    body: Box<RawValue>,
    /// The seconds after which to make the call again: its `Retry-After`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schema(nullable = false))]
    retry_after: Option<u64>,
}

/// Makes several calls.
///
/// Calls to one room, or to one user, are made in their order; others side by side. A call that fails
/// stops no other.
#[cfg_attr(test, utoipa::path(
    post, path = "/api/batch", tag = "batch",
    request_body = BatchRequest,
    responses((status = 200, description = "The answers.", body = BatchAnswer)),
))]
pub(super) async fn batch(
    calls: Router,
    caller: Caller,
    Body(request): Body<BatchRequest>,
) -> Result<Json<BatchAnswer>, Refusal> {
    let requests = request.calls.ok_or_else(|| missing("calls"))?;
    if requests.len() > MAX_CALLS {
        return Err(bad_field(format!("\"calls\" has at most {MAX_CALLS} entries.")));
    }
    let batch =
        Batch { calls: TowerToHyperService::new(calls), caller, answered: AtomicUsize::new(0) };
    let mut groups = BTreeMap::<Vec<u8>, Vec<(usize, CallRequest)>>::new();
    for (index, Object(request)) in requests.into_iter().enumerate() {
        groups.entry(subject(&request, index)).or_default().push((index, request));
    }
    let made = stream::iter(groups.into_values()).map(|group| batch.make(group));
    let made = made.buffer_unordered(SIDE_BY_SIDE).collect::<Vec<_>>().await;
    let mut answers: Vec<_> = made.into_iter().flatten().collect();
    answers.sort_unstable_by_key(|(index, _)| *index);
    Ok(Json(BatchAnswer { results: answers.into_iter().map(|(_, answer)| answer).collect() }))
}

/// The room or the user of a call, whose calls are made in order; of any other call, its place.
fn subject(request: &CallRequest, index: usize) -> Vec<u8> {
    let path = request.path.as_deref().unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    let mut parts = path.split('/').skip(1);
    match (parts.next(), parts.next()) {
        (Some(kind @ ("rooms" | "users")), Some(name)) => {
            kind.bytes().chain(*b"/").chain(percent_decode_str(name)).collect()
        }
        _ => index.to_string().into_bytes(),
    }
}

struct Batch {
    calls: TowerToHyperService<Router>,
    caller: Caller,
    /// Bytes of the answers so far.
    answered: AtomicUsize,
}

impl Batch {
    /// Makes calls one after another.
    async fn make(&self, group: Vec<(usize, CallRequest)>) -> Vec<(usize, CallAnswer)> {
        let mut answers = Vec::with_capacity(group.len());
        for (index, request) in group {
            let answer = self.answer(request).await.unwrap_or_else(CallAnswer::from);
            self.answered.fetch_add(answer.body.get().len(), Ordering::Relaxed);
            answers.push((index, answer));
        }
        answers
    }

    async fn answer(&self, request: CallRequest) -> Result<CallAnswer, Refusal> {
        if self.answered.load(Ordering::Relaxed) > MAX_ANSWERS {
            let message = "The answers of this batch are too large: this call was not made.";
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message));
        }
        let Ok(response) = self.calls.call(request.into_http(&self.caller)?).await;
        let status = response.status().as_u16();
        let retry_after = retry_after(response.headers());
        let body = to_bytes(response.into_body(), usize::MAX).await.ok();
        let body = body.and_then(|body| serde_json::from_slice(&body).ok());
        body.map(|body| CallAnswer { status, body, retry_after }).ok_or_else(Refusal::not_found)
    }
}

fn retry_after(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()
}

impl From<Refusal> for CallAnswer {
    fn from(refusal: Refusal) -> Self {
        let (status, retry_after) = (refusal.status.as_u16(), refusal.retry_after_seconds());
        let body = to_raw_value(&refusal.into_body());
        let body = body.unwrap_or_else(|_| RawValue::NULL.to_owned());
        Self { status, body, retry_after }
    }
}

impl CallRequest {
    fn into_http(self, caller: &Caller) -> Result<Request<HttpBody>, Refusal> {
        let method = self.method.ok_or_else(|| missing("method"))?;
        let path = self.path.ok_or_else(|| missing("path"))?;
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|_| bad_field("\"method\" is no method of HTTP."))?;
        let uri = format!("/api{path}").parse::<Uri>().ok().filter(|_| path.starts_with('/'));
        let uri = uri.ok_or_else(|| bad_field("\"path\" is no path such as /rooms/a/messages."))?;
        let body = self.body.map(|body| Box::<str>::from(body).into_string());
        let mut request = Request::new(HttpBody::from(body.unwrap_or_default()));
        (*request.method_mut(), *request.uri_mut()) = (method, uri);
        const JSON: HeaderValue = HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, JSON);
        request.extensions_mut().insert(Arc::clone(&caller.key));
        request.extensions_mut().insert(CallerAddress(caller.address));
        Ok(request)
    }
}
