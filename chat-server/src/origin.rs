//! Which web pages may use this server: one rule for WebSocket handshakes and for CORS.

use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

use crate::host::{self, host_of_url, is_loopback};
use crate::refusal::Refusal;

/// Refuses requests that may not come from where they say. The host is one of this server's:
/// [`host::check`] comes first.
pub(crate) fn check(headers: &HeaderMap, listed: &[String]) -> Result<(), Refusal> {
    if is_allowed(headers, listed) { Ok(()) } else { Err(Refusal::origin()) }
}

/// Whether a request may come from where it says.
///
/// Accepted are requests without `Origin` (not from a page), pages of the same host on
/// any port, pages of this machine if the server is asked for by a name of this machine,
/// and the origins in `listed`.
fn is_allowed(headers: &HeaderMap, listed: &[String]) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    // Which of several counts may be read in two ways.
    if headers.get_all(ORIGIN).iter().count() > 1 {
        return false;
    }
    let Ok(origin) = origin.to_str() else { return false };
    listed.iter().any(|listed| listed.trim_end_matches('/').eq_ignore_ascii_case(origin))
        || is_same_host(origin, headers)
}

fn is_same_host(origin: &str, headers: &HeaderMap) -> bool {
    match (host_of_page(origin), host::requested(headers)) {
        (Some(page), Some(server)) => page == server || is_loopback(&page) && is_loopback(&server),
        _ => false,
    }
}

/// The host in an origin such as `https://chat.example:8443`.
fn host_of_page(origin: &str) -> Option<String> {
    let uri: Uri = origin.parse().ok()?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.path() != "/" {
        return None;
    }
    host_of_url(origin)
}

/// What a response tells the browser of who may read it.
pub(crate) struct Cors {
    /// The page, if it may.
    reader: Option<HeaderValue>,
}

impl Cors {
    pub(crate) fn of(headers: &HeaderMap, listed: &[String]) -> Self {
        let origin = headers.get(ORIGIN).filter(|_| is_allowed(headers, listed));
        Self { reader: origin.cloned() }
    }

    pub(crate) fn apply(self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        headers.append(VARY, HeaderValue::from_static("origin"));
        if let Some(reader) = self.reader {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, reader);
        }
        response
    }

    /// The answer to a browser that asks before it posts.
    pub(crate) fn preflight(self) -> Response {
        let fields = [
            (ACCESS_CONTROL_ALLOW_METHODS, "POST"),
            (ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type"),
            (ACCESS_CONTROL_MAX_AGE, "600"),
        ];
        self.apply((StatusCode::NO_CONTENT, fields).into_response())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(origin: &str, host: &str, listed: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, origin.parse().unwrap());
        headers.insert(axum::http::header::HOST, host.parse().unwrap());
        let listed: Vec<_> = listed.iter().map(ToString::to_string).collect();
        is_allowed(&headers, &listed)
    }

    #[test]
    fn who_has_no_origin_is_no_page() {
        assert!(is_allowed(&HeaderMap::new(), &[]));
    }

    #[test]
    fn the_same_host_on_any_port() {
        assert!(allowed("http://chat.example:5173", "chat.example:8080", &[]));
        assert!(allowed("https://Chat.Example", "chat.example", &[]));
        assert!(allowed("http://10.0.0.5:1", "10.0.0.5:2", &[]));
    }

    #[test]
    fn names_of_this_machine_among_themselves() {
        for page in
            ["http://localhost:5173", "http://127.0.0.1", "http://127.8.8.8", "http://[::1]:9"]
        {
            assert!(allowed(page, "localhost:8080", &[]), "{page}");
            assert!(allowed(page, "[::1]:8080", &[]), "{page}");
            assert!(!allowed(page, "chat.example", &[]), "{page}");
        }
        assert!(!allowed("http://chat.example", "localhost:8080", &[]));
    }

    #[test]
    fn two_origins_are_refused() {
        let mut headers = HeaderMap::new();
        headers.insert(axum::http::header::HOST, "chat.example".parse().unwrap());
        for _ in 0..2 {
            headers.append(ORIGIN, "http://chat.example".parse().unwrap());
        }
        assert!(!is_allowed(&headers, &[]));
    }

    #[test]
    fn nobody_else() {
        for page in [
            "http://evil.example",
            "http://chat.example.evil.example",
            "http://evilchat.example",
            "http://chat.example@evil.example",
            "http://evil.example@chat.example",
            "http://chat.example/path",
            "file://chat.example",
            "chat.example",
            "//chat.example",
            "null",
            "",
        ] {
            assert!(!allowed(page, "chat.example:8080", &[]), "{page}");
        }
    }

    #[test]
    fn whoever_is_listed() {
        let listed = ["https://app.example", "https://other.example:444/", "null"];
        for page in
            ["https://app.example", "HTTPS://APP.example", "https://other.example:444", "null"]
        {
            assert!(allowed(page, "chat.example", &listed), "{page}");
        }
        for page in ["http://app.example", "https://app.example:444", "https://x.app.example"] {
            assert!(!allowed(page, "chat.example", &listed), "{page}");
        }
    }
}
