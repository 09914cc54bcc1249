//! Whether an HTTP connection stays open for a further request, and how the response says so.

use std::sync::Arc;

use axum::http::header::{CONNECTION, HeaderName, HeaderValue, TRANSFER_ENCODING};
use axum::http::{HeaderMap, StatusCode, Version};
use axum::response::Response;

use crate::header_list::elements;
use crate::limits::Limits;
use crate::state::State;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// The rule for one connection.
#[derive(Debug)]
pub(super) struct KeepAlive {
    pub(super) limits: Arc<Limits>,
    pub(super) state: Arc<State>,
    /// Whether the connection is of a trusted proxy: it carries requests of many clients, and there are
    /// few of them.
    pub(super) is_proxy: bool,
}

impl KeepAlive {
    /// Whether hyper keeps the connection open after this request without a header in the response. After
    /// a chunked request it may close: a `Content-Length` beside the chunks ends the connection, and
    /// hyper hides it. For HTTP/1.0 it adds the header itself.
    pub(super) fn is_default<B>(request: &hyper::Request<B>) -> bool {
        let headers = request.headers();
        request.version() == Version::HTTP_11
            && !headers.contains_key(TRANSFER_ENCODING)
            && !says_close(headers)
    }

    /// Announces in `response` whether the connection stays open. It does not if the body of the request
    /// `is_unread`: hyper then closes the connection.
    pub(super) fn announce(&self, response: &mut Response, is_default: bool, is_unread: bool) {
        let is_upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        if is_upgrade || says_close(headers) {
            return;
        }
        if is_unread || !self.is_offered() {
            headers.append(CONNECTION, HeaderValue::from_static("close"));
        } else if is_default {
            // 0 would announce a close, but the connection stays for a second longer than the setting.
            let seconds = self.state.config.keep_alive_timeout.as_secs().max(1);
            headers.append(CONNECTION, HeaderValue::from_static("keep-alive"));
            if let Ok(value) = HeaderValue::try_from(format!("timeout={seconds}")) {
                headers.insert(KEEP_ALIVE, value);
            }
        }
    }

    /// Idle connections may use half of the HTTP connections, so that new requests find free ones.
    fn is_offered(&self) -> bool {
        let is_kept = !self.state.config.keep_alive_timeout.is_zero();
        is_kept && !self.state.is_draining() && (self.is_proxy || self.limits.may_idle())
    }
}

fn says_close(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(CONNECTION).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(elements).any(|option| option.eq_ignore_ascii_case("close"))
}
