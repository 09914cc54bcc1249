//! Rejects requests that are not for this server, before routing.

use std::sync::Arc;

use axum::extract::{Request, State as Shared};
use axum::http::Version;
use axum::http::header::{HOST, HeaderValue};
use axum::http::uri::Authority;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use chat_transport::handshake;

use crate::host::{host_header, host_of};
use crate::refusal::Refusal;
use crate::state::State;

/// Rejects requests for other hosts, and those that [`check_form`] rejects.
pub(crate) async fn check(
    Shared(state): Shared<Arc<State>>,
    mut request: Request,
    next: Next,
) -> Response {
    let checked = set_host(&mut request).and_then(|()| state.hosts.check(request.headers()));
    answer(&state, checked, request, next).await
}

/// Rejects requests without one unambiguous host (RFC 9112, section 3.2). In requests that pass,
/// `Host` is the host of the request target if that has one.
pub(crate) async fn check_form(
    Shared(state): Shared<Arc<State>>,
    mut request: Request,
    next: Next,
) -> Response {
    let checked = set_host(&mut request);
    answer(&state, checked, request, next).await
}

async fn answer(
    state: &State,
    checked: Result<(), Refusal>,
    request: Request,
    next: Next,
) -> Response {
    match checked {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            let address = state.proxies.client_address(request.headers(), request.extensions());
            state.metrics.limited("host");
            if handshake::is_requested(request.headers()) {
                state.metrics.refused(&refusal);
                state.client_lines.handshake_refused(&refusal, None, None, address);
            } else if let Some(host) = refusal.foreign.as_ref().and_then(|it| it.host.as_deref()) {
                state.hosts.warn(host, address);
            }
            refusal.into_response()
        }
    }
}

fn set_host(request: &mut Request) -> Result<(), Refusal> {
    let host = named_host(request).map_err(|()| Refusal::invalid_host())?;
    if let Some(host) = host {
        request.headers_mut().insert(HOST, host);
    }
    Ok(())
}

/// The host that the request names. `None` in HTTP/1.0, which needs none: balancers leave it out in
/// their probes, and browsers, which the rule for hosts is about, do not speak it.
fn named_host(request: &Request) -> Result<Option<HeaderValue>, ()> {
    let lines = request.headers().get_all(HOST).iter().count();
    let header = host_header(request.headers());
    let is_valid = |authority: &Authority| host_of(authority).is_some();
    let is_header_valid = header.as_ref().is_some_and(is_valid);
    // The host of an absolute-form target takes precedence over the header, which HTTP/1.1 requires
    // even then.
    let target = request.uri().authority().cloned();
    match lines {
        0 if request.version() == Version::HTTP_11 => return Err(()),
        0 => {}
        1 if is_header_valid => {}
        _ => return Err(()),
    }
    let Some(authority) = target.or(header) else { return Ok(None) };
    if !is_valid(&authority) {
        return Err(());
    }
    HeaderValue::from_str(authority.as_str()).map(Some).map_err(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::requested;

    fn outcome(version: Version, target: &str, headers: &[&str]) -> Result<Option<String>, u16> {
        let mut request = Request::builder().version(version).uri(target);
        for host in headers {
            request = request.header(HOST, *host);
        }
        let mut request = request.body(axum::body::Body::empty()).unwrap();
        set_host(&mut request)
            .map(|()| requested(request.headers()))
            .map_err(|refusal| refusal.status.as_u16())
    }

    #[test]
    fn target_takes_precedence_over_header() {
        let named = |target, headers: &[&str]| outcome(Version::HTTP_11, target, headers);
        let host = |host: &str| Ok(Some(host.to_owned()));
        assert_eq!(named("/", &["localhost:8080"]), host("localhost"));
        assert_eq!(named("http://localhost:1/", &["evil.example"]), host("localhost"));
        assert_eq!(named("http://evil.example/", &["localhost"]), host("evil.example"));
        assert_eq!(outcome(Version::HTTP_2, "http://localhost:1/", &[]), host("localhost"));
    }

    #[test]
    fn one_valid_host_is_required() {
        for version in [Version::HTTP_10, Version::HTTP_11] {
            let named = |target, headers: &[&str]| outcome(version, target, headers);
            assert_eq!(named("/", &["localhost", "localhost"]), Err(400));
            assert_eq!(named("http://localhost/", &["localhost", "evil.example"]), Err(400));
            assert_eq!(named("http://localhost@evil.example/", &["localhost"]), Err(400));
            for invalid in [
                "",
                "a b",
                "localhost@evil.example",
                "evil.example@localhost",
                ":80",
                ".",
                "http://localhost",
                "localhost/path",
                "[zzz]",
                "local\"host",
            ] {
                assert_eq!(named("/", &[invalid]), Err(400), "{invalid:?}");
                assert_eq!(named("http://localhost/", &[invalid]), Err(400), "{invalid:?}");
            }
        }
        assert_eq!(outcome(Version::HTTP_11, "/", &[]), Err(400));
        assert_eq!(outcome(Version::HTTP_11, "http://localhost/", &[]), Err(400));
        assert_eq!(outcome(Version::HTTP_10, "/", &[]), Ok(None), "which needs none");
    }
}
