//! The hosts that this server serves.
//!
//! A browser treats a page and a server with the same host name as one origin, and the owner of a
//! domain decides what its name resolves to. A page at `http://evil.example` whose name resolves to
//! this server's address a moment later (DNS rebinding) would pass every check of origins. So a
//! request must be for a host that is known to be of this server.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axum::http::HeaderMap;
use axum::http::header::HOST;
use axum::http::uri::{Authority, Uri};
use parking_lot::RwLock;

use crate::log_budget::OncePerMinute;
use crate::refusal::{Foreign, Refusal};

/// The longest DNS name. A longer host is cut in the log.
const LONGEST_NAME: usize = 253;

/// The hosts of one server.
#[derive(Debug)]
pub(crate) struct Hosts {
    listed: RwLock<Vec<Pattern>>,
    public: Option<Pattern>,
    warned: OncePerMinute,
}

/// An entry of [`allow_host`](crate::ServerConfig::allow_host), with names as browsers write them: in
/// lower case and in ASCII.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    Any,
    /// Every name below this one. The text begins with a dot.
    Below(String),
    /// A host, on any port.
    Host(String),
    /// A host and its port.
    HostAndPort(String, u16),
}

impl Hosts {
    /// Entries of `allow_host` that are not valid allow no host.
    pub(crate) fn new(allow_host: &[String], public_host: Option<&str>) -> Self {
        let public = public_host.map(|host| Pattern::Host(host.to_owned()));
        let hosts = Self { listed: RwLock::default(), public, warned: OncePerMinute::new() };
        hosts.set(allow_host);
        hosts
    }

    /// Replaces the hosts that are listed, as [`new`](Self::new) reads them.
    pub(crate) fn set(&self, allow_host: &[String]) {
        let listed = allow_host.iter().filter_map(|entry| Pattern::parse(entry).ok()).collect();
        *self.listed.write() = listed;
    }

    /// Whether `authority` names this server.
    fn contain(&self, authority: &Authority) -> bool {
        let Some(host) = host_of(authority) else { return false };
        is_address(&host) || is_local_name(&host) || {
            let port = authority.port_u16();
            let listed = self.listed.read();
            listed.iter().chain(&self.public).any(|pattern| pattern.matches(&host, port))
        }
    }

    /// The headers are those of a request that [`check_form`](crate::host_check::check_form) lets pass.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        match host_header(headers) {
            Some(authority) if !self.contain(&authority) => {
                let host = authority.host();
                let host = host.get(..LONGEST_NAME).unwrap_or(host).to_owned();
                Err(Refusal::host().of(Foreign { host: Some(host), origin: None }))
            }
            _ => Ok(()),
        }
    }

    /// Logs a request for another host.
    pub(crate) fn warn(&self, host: &str, address: Option<IpAddr>) {
        if self.warned.is_due() {
            tracing::warn!(
                host,
                address = address.map(display),
                "request for an unknown host rejected: if it is a host of this server, add it to \
                 --allow-host (CHAT_ALLOW_HOST), or set --public-url (CHAT_PUBLIC_URL)"
            );
        }
    }
}

impl Pattern {
    /// # Errors
    /// What is wrong with the entry.
    pub(crate) fn parse(entry: &str) -> Result<Self, &'static str> {
        let entry = entry.trim();
        if entry == "*" {
            return Ok(Self::Any);
        }
        let below = entry.strip_prefix('*').unwrap_or(entry).strip_prefix('.');
        let authority = normalized(below.unwrap_or(entry))?;
        let host = host_of(&authority).ok_or(INVALID)?;
        match (authority.port_u16(), below) {
            (None, None) => Ok(Self::Host(host)),
            (None, Some(_)) => Ok(Self::Below(format!(".{host}"))),
            (Some(port), None) => Ok(Self::HostAndPort(host, port)),
            (Some(_), Some(_)) => Err("a pattern is for every port"),
        }
    }

    /// `port` is that of `Host`, which leaves out the default port of the scheme. Whether that is
    /// 80 or 443 is known to the proxy that ends TLS.
    fn matches(&self, host: &str, port: Option<u16>) -> bool {
        match self {
            Self::Any => true,
            Self::Below(parent) => host.ends_with(parent.as_str()) && host.len() > parent.len(),
            Self::Host(own) => own == host,
            Self::HostAndPort(own, own_port) => {
                let is_port = port.map_or(matches!(own_port, 80 | 443), |port| port == *own_port);
                own == host && is_port
            }
        }
    }
}

const INVALID: &str = "it is not a host like chat.example, .chat.example or chat.example:8080";

/// A host, and its port if it has one, as browsers send them: in lower case and in ASCII.
///
/// # Errors
/// What is wrong with the text.
pub(crate) fn normalized(text: &str) -> Result<Authority, &'static str> {
    let text = text.to_ascii_lowercase();
    // What is beyond ASCII is no address, so that the first colon is before the port.
    let (name, port) =
        text.split_at(text.find(':').filter(|_| !text.is_ascii()).unwrap_or(text.len()));
    let authority = format!("{}{port}", ascii(name)?).parse().map_err(|_| INVALID)?;
    let is_host = !text.contains(['*', '@']) && host_of(&authority).is_some();
    if is_host { Ok(authority) } else { Err(INVALID) }
}

/// The form `xn--…` of a name with letters beyond ASCII.
#[cfg(feature = "idna")]
fn ascii(name: &str) -> Result<Cow<'_, str>, &'static str> {
    if name.is_ascii() {
        return Ok(Cow::Borrowed(name));
    }
    idna::domain_to_ascii_cow(name.as_bytes(), idna::AsciiDenyList::URL).map_err(|_| INVALID)
}

#[cfg(not(feature = "idna"))]
fn ascii(name: &str) -> Result<Cow<'_, str>, &'static str> {
    let needed = "a name with letters beyond ASCII is needed in the form xn--…";
    if name.is_ascii() { Ok(Cow::Borrowed(name)) } else { Err(needed) }
}

pub(crate) fn host_header(headers: &HeaderMap) -> Option<Authority> {
    headers.get(HOST)?.to_str().ok()?.parse().ok()
}

/// The host of a request that has passed [`host_check::check`](crate::host_check::check), in lower case and without a port.
pub(crate) fn requested(headers: &HeaderMap) -> Option<String> {
    host_of(&host_header(headers)?)
}

/// The host of a URL with a scheme, in lower case and without a port.
pub(crate) fn host_of_url(url: &str) -> Option<String> {
    host_of(url.parse::<Uri>().ok()?.authority()?)
}

/// The host in lower case, without a port and without the trailing dot of an absolute name; an
/// address of IPv6 in its shortest form.
pub(crate) fn host_of(authority: &Authority) -> Option<String> {
    let host = authority.host().to_ascii_lowercase();
    let host = match v6(&host) {
        Some(address) => format!("[{address}]"),
        None => host.strip_suffix('.').map(str::to_owned).unwrap_or(host),
    };
    let is_plain = !authority.as_str().contains('@') && is_valid(&host) && ends_in_port(authority);
    is_plain.then_some(host)
}

/// Whether this is the address of an IPv6 host, or a name that a URL may have (RFC 3986, section
/// 3.2.2).
fn is_valid(host: &str) -> bool {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte);
    if host.starts_with('[') {
        v6(host).is_some()
    } else {
        !host.is_empty() && host.bytes().all(is_of_name)
    }
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

    fn hosts(allowed: &[&str], public_host: Option<&str>) -> Hosts {
        let allowed: Vec<_> = allowed.iter().map(ToString::to_string).collect();
        Hosts::new(&allowed, public_host)
    }

    fn are_ours(hosts: &Hosts, authority: &str) -> bool {
        hosts.contain(&authority.parse().unwrap())
    }

    #[test]
    fn host_is_followed_by_a_port_only() {
        let host = |authority: &str| authority.parse().ok().as_ref().and_then(host_of);
        for valid in ["localhost", "localhost:", "localhost:80", "[::1]:8080", "[::1]"] {
            assert!(host(valid).is_some(), "{valid}");
        }
        for wrong in [
            "[::1]evil",
            "[::1].evil.com",
            "localhost:abc",
            "localhost:99999",
            "[::1]:8x",
            "[zzz]",
            "[127.0.0.1]",
        ] {
            assert_eq!(host(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn addresses_and_local_names_are_allowed() {
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
    fn public_url_and_entries_are_allowed() {
        let hosts = hosts(
            &["Other.example", "port.example:8443", "*.wild.example", ".dot.example", " "],
            Some("chat.example"),
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
    fn entries_are_normalized() {
        let hosts = hosts(
            &[
                "M\u{fc}nchen.example",
                "*.k\u{f6}ln.example",
                "abs.example.",
                "tls.example:443",
                "web.example:80",
            ],
            None,
        );
        for ours in [
            "xn--mnchen-3ya.example:8080",
            "a.xn--kln-sna.example",
            "abs.example",
            "abs.example.",
            "tls.example",
            "tls.example:443",
            "web.example",
        ] {
            assert!(are_ours(&hosts, ours), "{ours}");
        }
        for foreign in ["tls.example:80", "web.example:8080", "xn--kln-sna.example"] {
            assert!(!are_ours(&hosts, foreign), "{foreign}");
        }
    }

    #[test]
    fn invalid_entries_are_rejected() {
        for entry in [
            "https://chat.example",
            "chat.example/path",
            "chat.example:port",
            "chat.example:99999",
            "user@chat.example",
            "chat.*.example",
            "*.*.example",
            ".chat.example:80",
            "a b",
            ".",
            "*.",
            "",
        ] {
            assert!(Pattern::parse(entry).is_err(), "{entry}");
        }
        assert!(Pattern::parse("[::1]:8080").is_ok() && Pattern::parse("[::1]").is_ok());
    }

    #[test]
    fn star_allows_every_host() {
        assert!(are_ours(&hosts(&["*"], None), "evil.example"));
    }

    proptest::proptest! {
        #[test]
        fn other_names_are_rejected(name in "[a-z0-9.-]{1,40}", port in 1..u16::MAX) {
            let authority = format!("{name}:{port}");
            if let Ok(authority) = authority.parse::<Authority>() {
                let name = name.strip_suffix('.').unwrap_or(&name);
                let is_known = is_address(name) || is_local_name(name);
                proptest::prop_assert_eq!(hosts(&[], None).contain(&authority), is_known && !name.is_empty());
            }
        }
    }
}
