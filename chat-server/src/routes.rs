//! What all routes share: the methods that they announce, and the path that they are mounted at.

use std::sync::Arc;

use axum::extract::{Request, State as Shared};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;

use crate::refusal::Refusal;
use crate::state::State;

/// A read-only path, which answers `OPTIONS`: some balancers probe with it.
pub(crate) fn readable(methods: MethodRouter<Arc<State>>) -> MethodRouter<Arc<State>> {
    methods.options(async || allowing("GET,HEAD,OPTIONS"))
}

pub(crate) fn allowing(methods: &'static str) -> Response {
    (StatusCode::NO_CONTENT, [(header::ALLOW, methods)]).into_response()
}

pub(crate) async fn wrong_method(method: Method) -> Refusal {
    let message = format!("The method {method} is not allowed for this path.");
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}

/// Rejects a body whose announced length is above `max`, before it is read.
pub(crate) async fn check_body(
    Shared(max): Shared<usize>,
    request: Request,
    next: Next,
) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > max as u64) {
        return Refusal::body_too_large().into_response();
    }
    next.run(request).await
}

/// The path at which an application has mounted these routes, without a trailing slash: the original
/// path without its end `own`, which is the path within these routes.
pub(crate) fn mount<'a>(original: &'a Uri, own: &Uri) -> &'a str {
    let path = original.path();
    path.strip_suffix(own.path()).unwrap_or(path).trim_end_matches('/')
}
