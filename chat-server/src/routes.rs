//! What the routes have in common: the methods that they say they have, and where they are mounted.

use std::sync::Arc;

use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;

use crate::refusal::Refusal;
use crate::state::State;

/// A path to read from, which says so to balancers that probe with `OPTIONS`.
pub(crate) fn readable(methods: MethodRouter<Arc<State>>) -> MethodRouter<Arc<State>> {
    methods.options(async || allowing("GET,HEAD,OPTIONS"))
}

pub(crate) fn allowing(methods: &'static str) -> Response {
    (StatusCode::NO_CONTENT, [(header::ALLOW, methods)]).into_response()
}

pub(crate) async fn wrong_method(method: Method) -> Refusal {
    let message = format!("{method} is not for this path.");
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}

/// Where an application has mounted these routes, without a slash at its end: what the path had
/// before `own`, which is what is left of it here.
pub(crate) fn mount<'a>(original: &'a Uri, own: &Uri) -> &'a str {
    let path = original.path();
    path.strip_suffix(own.path()).unwrap_or(path).trim_end_matches('/')
}
