//! Which hosts this server answers for.
//!
//! A browser treats a page and a server with the same host name as one origin, and the owner of a
//! domain decides what its name resolves to. A page at `http://evil.example` whose name resolves to
//! this server's address a moment later (DNS rebinding) would pass every check of origins. So a
//! request must be for a host that is known to be this server's.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::{Request, State as Shared};
use axum::http::header::{HOST, HeaderValue};
use axum::http::uri::{Authority, Uri};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use chat_transport::handshake;

use crate::log_budget::OncePerMinute;
use crate::refusal::Refusal;
use crate::state::State;

/// The longest DNS name. A longer host is cut in the log.
const LONGEST_NAME: usize = 253;

/// The hosts of one server.
#[derive(Debug)]
pub(crate) struct Hosts {
    allowed: Vec<Pattern>,
    warned: OncePerMinute,
}

/// An entry of [`allow_host`](crate::ServerConfig::allow_host), in lower case.
#[derive(Debug, PartialEq, Eq)]
enum Pattern {
    Any,
    /// Every name below this one. The text begins with a dot.
    Below(String),
    /// A host, on any port.
    Host(String),
    /// A host and its port.
    HostAndPort(String),
}

impl Hosts {
    pub(crate) fn new(allow_host: &[String], public_url: Option<&str>) -> Self {
        let public = public_url.and_then(host_of_url).map(Pattern::Host);
        let allowed = allow_host.iter().map(|entry| Pattern::new(entry)).chain(public).collect();
        Self { allowed, warned: OncePerMinute::new() }
    }

    /// Whether `authority` names this server.
    fn contain(&self, authority: &Authority) -> bool {
        let Some(host) = host_of(authority) else { return false };
        is_address(&host) || is_local_name(&host) || {
            let with_port = authority.port().map(|port| format!("{host}:{port}"));
            self.allowed.iter().any(|pattern| pattern.matches(&host, with_port.as_deref()))
        }
    }

    fn warn(&self, authority: &Authority) {
        if self.warned.is_due() {
            let host = authority.host();
            let host = host.get(..LONGEST_NAME).unwrap_or(host);
            tracing::warn!(
                host,
                "requests for this host are refused: if it is this server's, add it to \
                 --allow-host (ALLOW_HOST), or set --public-url (PUBLIC_URL)"
            );
        }
    }
}

impl Pattern {
    fn new(entry: &str) -> Self {
        let entry = entry.trim().to_ascii_lowercase();
        if entry == "*" {
            return Self::Any;
        }
        let below = entry.strip_prefix('*').unwrap_or(&entry);
        if below.starts_with('.') {
            return Self::Below(below.to_owned());
        }
        let has_port = entry.parse::<Authority>().is_ok_and(|entry| entry.port().is_some());
        if has_port { Self::HostAndPort(entry) } else { Self::Host(entry) }
    }

    fn matches(&self, host: &str, with_port: Option<&str>) -> bool {
        match self {
            Self::Any => true,
            Self::Below(parent) => host.ends_with(parent.as_str()) && host.len() > parent.len(),
            Self::Host(own) => own == host,
            Self::HostAndPort(own) => with_port == Some(own),
        }
    }
}

/// Refuses requests for other hosts, and requests without one unambiguous host (RFC 9112, section
/// 3.2). In requests that pass, `Host` is the host of the request target if that has one.
pub(crate) async fn check(
    Shared(state): Shared<Arc<State>>,
    mut request: Request,
    next: Next,
) -> Response {
    match check_request(&state.hosts, &mut request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            state.metrics.limited("host");
            if handshake::is_requested(request.headers()) {
                state.metrics.refused(refusal.status.as_u16());
            }
            refusal.into_response()
        }
    }
}

fn check_request(hosts: &Hosts, request: &mut Request) -> Result<(), Refusal> {
    let invalid = || {
        let message = "A request has one host, and a valid one.";
        Refusal::new(StatusCode::BAD_REQUEST, "bad_field", message)
    };
    let authority = match request.uri().authority() {
        // The host of an absolute-form target takes precedence over the header.
        Some(authority) => authority.clone(),
        None => host_header(request.headers()).ok_or_else(invalid)?,
    };
    if host_of(&authority).is_none() || request.headers().get_all(HOST).iter().count() > 1 {
        return Err(invalid());
    }
    if !hosts.contain(&authority) {
        hosts.warn(&authority);
        return Err(Refusal::host());
    }
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| invalid())?;
    request.headers_mut().insert(HOST, host);
    Ok(())
}

fn host_header(headers: &HeaderMap) -> Option<Authority> {
    headers.get(HOST)?.to_str().ok()?.parse().ok()
}

/// The host of a request that has passed [`check`], in lower case and without a port.
pub(crate) fn requested(headers: &HeaderMap) -> Option<String> {
    host_of(&host_header(headers)?)
}

/// The host of a URL with a scheme, in lower case and without a port.
pub(crate) fn host_of_url(url: &str) -> Option<String> {
    host_of(url.parse::<Uri>().ok()?.authority()?)
}

/// The host in lower case, without a port and without the trailing dot of an absolute name.
fn host_of(authority: &Authority) -> Option<String> {
    let host = authority.host().to_ascii_lowercase();
    let host = host.strip_suffix('.').map(str::to_owned).unwrap_or(host);
    let is_plain = !authority.as_str().contains('@') && !host.is_empty() && ends_in_port(authority);
    is_plain.then_some(host)
}

/// Whether nothing but a port follows the host, as not in `[::1].example` or `localhost:x`.
fn ends_in_port(authority: &Authority) -> bool {
    let rest = authority.as_str().strip_prefix(authority.host());
    match rest.map(|rest| rest.strip_prefix(':').ok_or(rest)) {
        Some(Ok(port)) => port.is_empty() || port.parse::<u16>().is_ok(),
        Some(Err(rest)) => rest.is_empty(),
        None => false,
    }
}

/// Whether the host is an address: it is not resolved, so DNS rebinding cannot use it.
fn is_address(host: &str) -> bool {
    host.parse::<Ipv4Addr>().is_ok() || v6(host).is_some()
}

/// Whether every browser resolves the name to its own machine (RFC 6761, section 6.3).
fn is_local_name(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

/// Whether the host is the client's own machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    is_local_name(host)
        || host.parse::<Ipv4Addr>().is_ok_and(|address| address.is_loopback())
        || v6(host).is_some_and(|address| address.is_loopback())
}

fn v6(host: &str) -> Option<Ipv6Addr> {
    host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(allowed: &[&str], public_url: Option<&str>) -> Hosts {
        let allowed: Vec<_> = allowed.iter().map(ToString::to_string).collect();
        Hosts::new(&allowed, public_url)
    }

    fn are_ours(hosts: &Hosts, authority: &str) -> bool {
        hosts.contain(&authority.parse().unwrap())
    }

    #[test]
    fn what_follows_the_host_is_a_port() {
        let host = |authority: &str| authority.parse().ok().as_ref().and_then(host_of);
        for valid in ["localhost", "localhost:", "localhost:80", "[::1]:8080", "[::1]"] {
            assert!(host(valid).is_some(), "{valid}");
        }
        for wrong in ["[::1]evil", "[::1].evil.com", "localhost:abc", "localhost:99999", "[::1]:8x"]
        {
            assert_eq!(host(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn addresses_and_local_names_are_ours() {
        let hosts = hosts(&[], None);
        for ours in [
            "localhost",
            "LocalHost:8080",
            "localhost.",
            "chat.localhost:1",
            "127.0.0.1:8080",
            "127.8.8.8",
            "192.168.1.20:8080",
            "203.0.113.9",
            "[::1]:8080",
            "[fe80::1]",
        ] {
            assert!(are_ours(&hosts, ours), "{ours}");
        }
        for foreign in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evillocalhost",
            "0x7f.1",
            "2130706433",
            "evil.example.",
        ] {
            assert!(!are_ours(&hosts, foreign), "{foreign}");
        }
    }

    #[test]
    fn public_url_and_entries_are_ours() {
        let hosts = hosts(
            &["Other.example", "port.example:8443", "*.wild.example", ".dot.example", " "],
            Some("https://chat.example:444/base"),
        );
        for ours in [
            "chat.example",
            "CHAT.example:80",
            "chat.example.",
            "other.example:1",
            "port.example:8443",
            "a.wild.example",
            "a.b.wild.example:80",
            "a.dot.example",
        ] {
            assert!(are_ours(&hosts, ours), "{ours}");
        }
        for foreign in [
            "x.chat.example",
            "port.example",
            "port.example:8080",
            "wild.example",
            ".wild.example",
            "evilwild.example",
            "dot.example",
        ] {
            assert!(!are_ours(&hosts, foreign), "{foreign}");
        }
    }

    #[test]
    fn star_allows_every_host() {
        assert!(are_ours(&hosts(&["*"], None), "evil.example"));
    }

    fn outcome(target: &str, headers: &[&str]) -> Result<Option<String>, u16> {
        let mut request = Request::builder().uri(target);
        for host in headers {
            request = request.header(HOST, *host);
        }
        let mut request = request.body(axum::body::Body::empty()).unwrap();
        check_request(&hosts(&[], None), &mut request)
            .map(|()| requested(request.headers()))
            .map_err(|refusal| refusal.status.as_u16())
    }

    #[test]
    fn target_counts_over_the_header() {
        let ours = |host: &str| Ok(Some(host.to_owned()));
        assert_eq!(outcome("/", &["localhost:8080"]), ours("localhost"));
        assert_eq!(outcome("http://localhost:1/", &["evil.example"]), ours("localhost"));
        assert_eq!(outcome("http://localhost:1/", &[]), ours("localhost"));
        assert_eq!(outcome("http://evil.example/", &["localhost"]), Err(403));
    }

    #[test]
    fn one_valid_host_is_needed() {
        assert_eq!(outcome("/", &[]), Err(400));
        assert_eq!(outcome("/", &["localhost", "localhost"]), Err(400));
        assert_eq!(outcome("http://localhost/", &["localhost", "evil.example"]), Err(400));
        for invalid in ["", "a b", "localhost@evil.example", "evil.example@localhost", ":80", "."] {
            assert_eq!(outcome("/", &[invalid]), Err(400), "{invalid:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn name_without_an_entry_is_foreign(name in "[a-z0-9.-]{1,40}", port in 1..u16::MAX) {
            let authority = format!("{name}:{port}");
            if let Ok(authority) = authority.parse::<Authority>() {
                let name = name.strip_suffix('.').unwrap_or(&name);
                let is_known = is_address(name) || is_local_name(name);
                proptest::prop_assert_eq!(hosts(&[], None).contain(&authority), is_known && !name.is_empty());
            }
        }
    }
}
