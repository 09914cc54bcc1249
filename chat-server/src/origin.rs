//! The origins of web pages that may use this server: one rule for WebSocket handshakes and CORS.
//! The layer of `tower-http` would serve CORS only.

use std::net::IpAddr;

use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ALLOW, HeaderName, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use chat_core::printable;
use parking_lot::RwLock;

use crate::host::{self, host_of_url, is_loopback};
use crate::log_budget::LogBudget;
use crate::refusal::{Foreign, Refusal};

/// A longer origin is cut in the log: a name of DNS with a scheme and a port.
const LONGEST: usize = 280;

/// Lines in a minute for unknown origins, one for each.
const WARNINGS: u32 = 32;

/// The origins that may use a server.
#[derive(Debug)]
pub(crate) struct Origins {
    listed: RwLock<Vec<String>>,
    warned: LogBudget,
}

impl Origins {
    /// Invalid entries of [`allow_origin`](crate::ServerConfig::allow_origin) allow no origin.
    pub(crate) fn new(allow_origin: &[String]) -> Self {
        let origins = Self { listed: RwLock::default(), warned: LogBudget::new(WARNINGS, 1) };
        origins.set(allow_origin);
        origins
    }

    /// Replaces the origins that are listed, as [`new`](Self::new) reads them.
    pub(crate) fn set(&self, allow_origin: &[String]) {
        let listed = allow_origin.iter().filter_map(|entry| serialized(entry).ok()).collect();
        *self.listed.write() = listed;
    }

    /// Rejects requests of origins that may not use this server. The host of the request must have
    /// passed [`host_check::check`](crate::host_check::check).
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if self.allow(headers) {
            return Ok(());
        }
        let host = host::requested(headers);
        Err(Refusal::origin().of(Foreign { host, origin: Some(named_origin(headers)) }))
    }

    /// Logs an origin that may not use this server.
    pub(crate) fn cors(&self, headers: &HeaderMap, address: Option<IpAddr>) -> Cors {
        let is_allowed = self.allow(headers);
        if !is_allowed {
            self.warn(headers, address);
        }
        Cors { reader: headers.get(ORIGIN).filter(|_| is_allowed).cloned() }
    }

    /// Whether the origin of a request may use this server.
    ///
    /// Accepted are requests without `Origin` (not of a page), pages of the same host on any port, pages
    /// of the loopback host if the request is for it, and the origins that are listed.
    fn allow(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(ORIGIN).into_iter();
        let Some(origin) = origins.next() else { return true };
        // Of several headers, programs disagree on which one counts.
        if origins.next().is_some() {
            return false;
        }
        let Some(origin) = origin.to_str().ok().and_then(|origin| serialized(origin).ok()) else {
            return false;
        };
        self.listed.read().contains(&origin) || is_same_host(&origin, headers)
    }

    fn warn(&self, headers: &HeaderMap, address: Option<IpAddr>) {
        let origin = named_origin(headers);
        if self.warned.take(&origin) {
            let host = host::requested(headers).unwrap_or_default();
            tracing::warn!(
                origin,
                host,
                address = address.map(display),
                "request of an unknown origin rejected: if its pages may use this server, add it to \
                 --allow-origin (CHAT_ALLOW_ORIGIN)"
            );
        }
    }
}

/// The origin of a request in one line, as it was sent.
fn named_origin(headers: &HeaderMap) -> String {
    let origin = headers.get(ORIGIN).map_or(&b""[..], HeaderValue::as_bytes);
    let origin = String::from_utf8_lossy(&origin[..origin.len().min(LONGEST)]);
    printable(&origin).into_owned()
}

fn is_same_host(origin: &str, headers: &HeaderMap) -> bool {
    match (host_of_page(origin), host::requested(headers)) {
        (Some(page), Some(server)) => page == server || is_loopback(&page) && is_loopback(&server),
        _ => false,
    }
}

/// The host in an origin such as `https://chat.example:8443`.
fn host_of_page(origin: &str) -> Option<String> {
    let is_web = origin.starts_with("http://") || origin.starts_with("https://");
    is_web.then(|| host_of_url(origin)).flatten()
}

/// The origin as browsers write it (URL standard, section 4.7): in lower case, names in their ASCII
/// form, without a default port. `ws` and `wss` stand for `http` and `https`: no browser has pages
/// there, but some libraries send the URL of the connection. Of other schemes, such as
/// `capacitor://localhost` or `file://`, nothing but the case is changed.
///
/// # Errors
/// What is wrong with the origin.
pub(crate) fn serialized(text: &str) -> Result<String, &'static str> {
    let text = text.trim().to_ascii_lowercase();
    if text == "null" {
        return Ok(text);
    }
    let (scheme, rest) =
        text.split_once("://").ok_or("an origin begins with a scheme, like https://app.example")?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let is_in_path = |byte: u8| matches!(byte, b'/' | b'\\' | b'?' | b'#');
    if authority.bytes().any(is_in_path) {
        return Err("an origin has no path, no query and no fragment");
    }
    if authority.contains('*') {
        return Err("there are no patterns of origins: list each of them");
    }
    if authority.contains('@') {
        return Err("an origin has no user");
    }
    if text.contains(|next: char| next.is_whitespace() || next.is_control()) {
        return Err("an origin has no blanks");
    }
    let scheme = match scheme {
        "ws" => "http",
        "wss" => "https",
        other => other,
    };
    if matches!(scheme, "http" | "https") {
        return of_web(scheme, authority).ok_or("the host of the origin is not valid");
    }
    let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    if !scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        || !scheme.bytes().all(is_scheme)
    {
        return Err("an origin begins with a scheme, like https://app.example");
    }
    if !authority.is_ascii() || authority.is_empty() && scheme != "file" {
        return Err("an origin has a host in ASCII after its scheme");
    }
    Ok(format!("{scheme}://{authority}"))
}

/// An origin without the default port of its scheme.
fn of_web(scheme: &str, authority: &str) -> Option<String> {
    let authority = host::normalized(authority).ok()?;
    let host = host::host_of(&authority)?;
    let default = if scheme == "http" { 80 } else { 443 };
    Some(match authority.port_u16().filter(|port| *port != default) {
        Some(port) => format!("{scheme}://{host}:{port}"),
        None => format!("{scheme}://{host}"),
    })
}

/// The headers of a response that say which page may read it.
pub(crate) struct Cors {
    /// The origin that may read the response.
    reader: Option<HeaderValue>,
}

impl Cors {
    pub(crate) fn apply(self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        headers.append(VARY, HeaderValue::from_static("origin"));
        if let Some(reader) = self.reader {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, reader);
        }
        response
    }

    /// The answer to a preflight request.
    pub(crate) fn preflight(self) -> Response {
        let fields: [(HeaderName, _); 4] = [
            (ALLOW, "POST,OPTIONS"),
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

    fn origins(listed: &[&str]) -> Origins {
        Origins::new(&listed.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    fn allowed(origin: &str, host: &str, listed: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, HeaderValue::from_bytes(origin.as_bytes()).unwrap());
        headers.insert(axum::http::header::HOST, host.parse().unwrap());
        origins(listed).allow(&headers)
    }

    #[test]
    fn request_without_origin_is_allowed() {
        assert!(origins(&[]).allow(&HeaderMap::new()));
    }

    #[test]
    fn same_host_is_allowed_on_any_port() {
        assert!(allowed("http://chat.example:5173", "chat.example:8080", &[]));
        assert!(allowed("https://Chat.Example", "chat.example", &[]));
        assert!(allowed("http://10.0.0.5:1", "10.0.0.5:2", &[]));
        assert!(allowed("http://[::1]", "[::1]:80", &[]));
        assert!(allowed("wss://chat.example", "chat.example", &[]), "as Starscream does");
        assert!(allowed("http://localhost/", "localhost", &[]), "as Go's x/net does");
    }

    #[test]
    fn loopback_names_are_equivalent() {
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
        assert!(!origins(&[]).allow(&headers));
    }

    #[test]
    fn other_origins_are_refused() {
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
            "capacitor://chat.example",
            "http://chat.example\\path",
            "http://chat.example http://evil.example",
            "http://chat.\u{e9}xample",
            "null",
            "",
        ] {
            assert!(!allowed(page, "chat.example:8080", &[]), "{page}");
        }
    }

    #[test]
    fn listed_origins_are_allowed() {
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

    #[test]
    fn listed_origins_are_normalized() {
        for (listed, page) in [
            ("https://port.example:443", "https://port.example"),
            ("https://port.example", "https://port.example:443"),
            ("http://port.example:80", "http://port.example"),
            ("https://m\u{fc}nchen.example", "https://xn--mnchen-3ya.example"),
            ("https://M\u{dc}NCHEN.example:8443", "https://xn--mnchen-3ya.example:8443"),
            ("HTTPS://App.Example/", "https://app.example"),
            ("wss://app.example", "https://app.example"),
            ("http://[0:0::1]:80", "http://[::1]"),
            ("file://", "file://"),
            ("file:///", "file://"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("ionic://localhost", "ionic://localhost"),
            ("tauri://localhost", "tauri://localhost"),
            ("app://.", "app://."),
            ("chrome-extension://abcdefghijklmnop/", "chrome-extension://abcdefghijklmnop"),
            (
                "moz-extension://0a1b2c3d-0000-4000-8000-000000000000",
                "moz-extension://0a1b2c3d-0000-4000-8000-000000000000",
            ),
            ("NULL", "null"),
        ] {
            assert!(allowed(page, "chat.example", &[listed]), "{listed}: {page}");
        }
        assert!(!allowed("http://port.example", "chat.example", &["https://port.example:80"]));
        assert!(!allowed("http://app.example", "chat.example", &["wss://app.example"]));
    }

    #[test]
    fn invalid_origins_are_rejected() {
        for text in [
            "app.example",
            "*",
            "https://*.app.example",
            "https://app.example/path",
            "https://app.example//",
            "https://app.example?x",
            "https://app.example#x",
            "https://user@app.example",
            "https://",
            "https://app.example:99999",
            "https://app example",
            "https://a,https://b",
            "://app.example",
            "1x://app.example",
            "app://",
            "",
        ] {
            assert!(serialized(text).is_err(), "{text}");
        }
    }
}
