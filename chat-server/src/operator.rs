//! Health checks and metrics, with `/api` and the page for operators beside them.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::refusal::Refusal;
use crate::routes::{readable, wrong_method};
use crate::state::State;
use crate::{admin, api, host_check, scrape};

/// Health checks, metrics, `/api` and `/admin/`, for a listener of their own.
pub(crate) fn router(state: Arc<State>) -> Router {
    let rest = metrics()
        .merge(api::router(&state))
        .merge(admin::router())
        .layer(from_fn_with_state(Arc::clone(&state), host_check::check_form));
    health(&state)
        .merge(rest)
        .fallback(async || Refusal::not_found())
        .method_not_allowed_fallback(wrong_method)
        .with_state(state)
}

/// `/metrics`.
pub(crate) fn metrics() -> Router<Arc<State>> {
    Router::new().route("/metrics", readable(get(show_metrics)))
}

/// Health checks, for requests to any host.
pub(crate) fn health(state: &Arc<State>) -> Router<Arc<State>> {
    Router::new()
        .route("/healthz", readable(get(async || "ok\n")))
        .route("/readyz", readable(get(readyz)))
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(state), host_check::check_form))
}

/// `GET /readyz`: whether a balancer should send clients here.
async fn readyz(Shared(state): Shared<Arc<State>>) -> (StatusCode, Cow<'static, str>) {
    match state.why_not_ready() {
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n").into()),
        // All servers share the broker: clients gain nothing by another server.
        None if state.hub.broker().stats().full => (
            StatusCode::OK,
            "ready, but Redis is full: rooms with history refuse messages\n".into(),
        ),
        None => (StatusCode::OK, "ready\n".into()),
    }
}

/// `GET /metrics`: the text format of OpenMetrics if the request asks for it, as Prometheus does, and
/// Prometheus' own otherwise.
async fn show_metrics(Shared(state): Shared<Arc<State>>, headers: HeaderMap) -> Response {
    const OPEN_METRICS: HeaderValue =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    let Ok(page) = scrape::render(&state) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let mut accepted = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
    if accepted.any(|line| line.contains("application/openmetrics-text")) {
        return ([(header::CONTENT_TYPE, OPEN_METRICS)], page).into_response();
    }
    ([(header::CONTENT_TYPE, PLAIN)], scrape::to_plain(&page)).into_response()
}
