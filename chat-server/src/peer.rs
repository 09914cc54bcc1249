//! The address of a client, also behind proxies.

use std::net::{IpAddr, SocketAddr};

use axum::extract::ConnectInfo;
use axum::http::{Extensions, HeaderMap, HeaderName, header};
use ipnet::IpNet;
use parking_lot::RwLock;

use crate::header_list::{elements, parameters};
use crate::log_budget::OncePerMinute;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The longest chain of proxies that is followed.
const MAX_HOPS: usize = 32;

/// The proxies that say where clients are, and what the log says of those that are not trusted.
#[derive(Debug)]
pub(crate) struct Proxies {
    trusted: RwLock<(Vec<IpNet>, ForwardedHeader)>,
    untrusted_header: OncePerMinute,
    crowded_address: OncePerMinute,
}

impl Proxies {
    pub(crate) fn new(trusted: Vec<IpNet>, header: ForwardedHeader) -> Self {
        Self {
            trusted: RwLock::new((trusted, header)),
            untrusted_header: OncePerMinute::new(),
            crowded_address: OncePerMinute::new(),
        }
    }

    /// Replaces the proxies. Open connections keep their addresses.
    pub(crate) fn replace(&self, trusted: Vec<IpNet>, header: ForwardedHeader) {
        *self.trusted.write() = (trusted, header);
    }

    pub(crate) fn trust(&self, address: IpAddr) -> bool {
        is_trusted(address, &self.trusted.read().0)
    }

    /// See [`address`].
    pub(crate) fn client_address(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Option<IpAddr> {
        let (trusted, header) = &*self.trusted.read();
        address(headers, extensions, trusted, *header)
    }

    /// Logs a handshake that has passed a proxy which is not trusted: clients then have its address.
    /// Only for an address that no client on the internet has. Any other client can make up the header,
    /// and the line would have the operator trust it.
    pub(crate) fn warn_if_untrusted(&self, headers: &HeaderMap, extensions: &Extensions) {
        let is_forwarded =
            [X_FORWARDED_FOR, header::FORWARDED].iter().any(|name| headers.contains_key(name));
        let Some(ConnectInfo(socket)) = extensions.get::<ConnectInfo<SocketAddr>>() else { return };
        let address = socket.ip().to_canonical();
        if is_forwarded
            && is_private(address)
            && !self.trust(address)
            && self.untrusted_header.is_due()
        {
            tracing::warn!(
                %address,
                "handshake forwarded by an address that is not trusted: if it is a balancer, all of its \
                 clients count as this address until it is in --trusted-proxies (CHAT_TRUSTED_PROXIES)"
            );
        }
    }

    /// Logs that an address which may be a balancer's has as many connections as one client may have.
    pub(crate) fn warn_of_crowd(&self, address: IpAddr) {
        let is_trusted = self.trust(address);
        if !(is_private(address) || is_trusted) || !self.crowded_address.is_due() {
            return;
        }
        if is_trusted {
            tracing::warn!(
                %address,
                "connections of this trusted proxy are refused, as it has as many as one address may have: \
                 it names no client for them; let it write the header in --forwarded-header, or raise \
                 --max-connections-per-address if they are its own"
            );
        } else {
            tracing::warn!(
                %address,
                "connections of this address are refused, as it has as many as one may have: if it is a \
                 balancer, set --trusted-proxies (CHAT_TRUSTED_PROXIES), and let it write the header in \
                 --forwarded-header; otherwise raise --max-connections-per-address"
            );
        }
    }
}

/// Whether an address is of a private network, of this machine, or of a carrier's inner network.
fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let is_shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 0x40;
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || is_shared
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// The client's address: that of the socket, or, if the socket is of a proxy in `trusted`, the one in
/// the header of the proxies. `None` where the listener does not provide the address of the socket.
fn address(
    headers: &HeaderMap,
    extensions: &Extensions,
    trusted: &[IpNet],
    header: ForwardedHeader,
) -> Option<IpAddr> {
    let ConnectInfo(socket) = extensions.get::<ConnectInfo<SocketAddr>>()?;
    let socket = socket.ip().to_canonical();
    if !is_trusted(socket, trusted) {
        return Some(socket);
    }
    Some(furthest(&hops(headers, header), socket, trusted))
}

/// Follows the chain back from the nearest proxy while each hop is trusted: an untrusted one may have
/// made up the entries before its own.
fn furthest(hops: &[IpAddr], socket: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let mut nearest = socket;
    for hop in hops.iter().rev() {
        if !is_trusted(nearest, trusted) {
            break;
        }
        nearest = *hop;
    }
    nearest
}

fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&address))
}

/// The header in which proxies record the client's address. Only one is read: a proxy that writes one
/// may forward the other as the client made it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ForwardedHeader {
    /// `X-Forwarded-For: 192.0.2.60, 10.0.0.1`
    #[default]
    XForwardedFor,
    /// `Forwarded: for=192.0.2.60;proto=https` (RFC 7239)
    Forwarded,
}

/// The addresses in the header, the client's first: all its lines are one list. An entry that is no
/// address ends the chain: the entries before it are unknown.
fn hops(headers: &HeaderMap, header: ForwardedHeader) -> Vec<IpAddr> {
    let name = match header {
        ForwardedHeader::XForwardedFor => X_FORWARDED_FOR,
        ForwardedHeader::Forwarded => header::FORWARDED,
    };
    let mut noted = Vec::new();
    // Empty elements are ignored (RFC 9110, section 5.6.1.2).
    let is_set = |element: &&str| !element.trim().is_empty();
    for line in headers.get_all(name) {
        // Bytes that are not UTF-8 invalidate their own element, and not those that proxies have added.
        let line = &*String::from_utf8_lossy(line.as_bytes());
        match header {
            // This header has no quoted strings. If it had, a client could hide the elements that
            // proxies append by an open quote.
            ForwardedHeader::XForwardedFor => {
                noted.extend(line.split(',').filter(is_set).map(of_host));
            }
            ForwardedHeader::Forwarded => {
                noted.extend(elements(line).filter(is_set).map(of_forwarded));
            }
        }
    }
    let mut hops: Vec<_> = noted.into_iter().rev().map_while(|hop| hop).take(MAX_HOPS).collect();
    hops.reverse();
    hops
}

/// `for=192.0.2.60;proto=http`, `for="[2001:db8::17]:4711"`
fn of_forwarded(element: &str) -> Option<IpAddr> {
    let parameters = parameters(element)?;
    let (_, value) = parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case("for"))?;
    of_host(value)
}

/// An address, with or without a port.
fn of_host(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let address = text.parse().ok().or_else(bare);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    address.or_else(with_port).map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> IpNet {
        text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).unwrap()
    }

    fn seen(socket: &str, headers: &[(&'static str, &str)], trusted: &[&str]) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let mut extensions = Extensions::new();
        extensions.insert(ConnectInfo(SocketAddr::new(socket.parse().unwrap(), 1)));
        let trusted: Vec<_> = trusted.iter().map(|net| network(net)).collect();
        let is_forwarded = headers.iter().any(|(name, _)| *name == "forwarded");
        let header =
            if is_forwarded { ForwardedHeader::Forwarded } else { ForwardedHeader::XForwardedFor };
        address(&map, &extensions, &trusted, header).unwrap().to_string()
    }

    #[test]
    fn addresses_of_balancers_are_private() {
        for private in ["127.0.0.1", "10.1.2.3", "172.31.0.1", "100.64.0.1", "::1", "fd00::1"] {
            assert!(is_private(private.parse().unwrap()), "{private}");
        }
        for public in ["203.0.113.1", "172.32.0.1", "100.128.0.1", "2001:db8::1"] {
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn header_of_an_untrusted_peer_is_ignored() {
        let spoofed = [("x-forwarded-for", "1.2.3.4"), ("forwarded", "for=1.2.3.4")];
        assert_eq!(seen("9.9.9.9", &spoofed, &[]), "9.9.9.9");
        assert_eq!(seen("9.9.9.9", &spoofed, &["10.0.0.0/8"]), "9.9.9.9");
    }

    #[test]
    fn header_of_a_trusted_proxy_names_the_client() {
        let trusted = ["10.0.0.0/8", "127.0.0.1"];
        let forwarded = |text: &str| seen("10.1.1.1", &[("forwarded", text)], &trusted);
        let listed = |text: &str| seen("10.1.1.1", &[("x-forwarded-for", text)], &trusted);
        assert_eq!(listed("1.2.3.4"), "1.2.3.4");
        assert_eq!(
            listed("6.6.6.6, 1.2.3.4, 10.2.2.2"),
            "1.2.3.4",
            "earlier entries may be spoofed"
        );
        assert_eq!(listed("10.3.3.3"), "10.3.3.3", "a client inside");
        assert_eq!(listed("unknown"), "10.1.1.1");
        assert_eq!(listed("1.2.3.4, unknown"), "10.1.1.1");
        assert_eq!(listed("[2001:db8::17]:4711"), "2001:db8::17");
        assert_eq!(listed("1.2.3.4:99"), "1.2.3.4");
        for blanks in ["1.2.3.4,", ",1.2.3.4", "6.6.6.6,,\t1.2.3.4 , ,", " , 1.2.3.4,10.2.2.2,"] {
            assert_eq!(listed(blanks), "1.2.3.4", "{blanks}");
        }
        assert_eq!(forwarded(", for=1.2.3.4,, for=10.2.2.2,"), "1.2.3.4");
        assert_eq!(forwarded("for=192.0.2.60;proto=http;by=203.0.113.43"), "192.0.2.60");
        assert_eq!(forwarded("proto=https;For=\"[2001:db8:cafe::17]:4711\""), "2001:db8:cafe::17");
        assert_eq!(forwarded("for=6.6.6.6, for=1.2.3.4"), "1.2.3.4");
        assert_eq!(forwarded("for=_hidden"), "10.1.1.1");
        let both = [("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "1.2.3.4")];
        assert_eq!(seen("127.0.0.1", &both, &trusted), "1.2.3.4", "lines add up");
        let one_of_two = [("x-forwarded-for", "6.6.6.6"), ("forwarded", "for=1.2.3.4")];
        assert_eq!(seen("127.0.0.1", &one_of_two, &trusted), "1.2.3.4", "the one that is set");
    }

    /// What nginx makes of `for=$remote_addr;host="$host"` if a client makes up the host.
    #[test]
    fn quoted_text_of_a_client_adds_no_address() {
        let forwarded = |text: &str| seen("10.1.1.1", &[("forwarded", text)], &["10.0.0.0/8"]);
        for host in ["a,for=6.6.6.1", "a;for=6.6.6.1", r"a\,for=6.6.6.1", ",for=6.6.6.1,", "a=b;c"]
        {
            assert_eq!(forwarded(&format!("for=1.2.3.4;host=\"{host}\"")), "1.2.3.4", "{host}");
            assert_eq!(forwarded(&format!("host=\"{host}\";for=1.2.3.4")), "1.2.3.4", "{host}");
        }
        assert_eq!(forwarded("for=1.2.3.4, for=10.2.2.2;host=\"a,for=6.6.6.1\""), "1.2.3.4");
    }

    #[test]
    fn invalid_utf8_hides_no_address() {
        let trusted = [network("10.0.0.0/8")];
        for (name, header, line) in [
            ("x-forwarded-for", ForwardedHeader::XForwardedFor, &b"\xff, 1.2.3.4"[..]),
            ("forwarded", ForwardedHeader::Forwarded, &b"host=\"\xff\", for=1.2.3.4"[..]),
        ] {
            let mut map = HeaderMap::new();
            map.append(name, axum::http::HeaderValue::from_bytes(line).unwrap());
            let mut extensions = Extensions::new();
            extensions.insert(ConnectInfo(SocketAddr::from(([10, 1, 1, 1], 1))));
            let seen = address(&map, &extensions, &trusted, header).unwrap();
            assert_eq!(seen.to_string(), "1.2.3.4", "{name}");
        }
    }

    #[test]
    fn malformed_element_ends_the_chain() {
        let forwarded = |text: &str| seen("10.1.1.1", &[("forwarded", text)], &["10.0.0.0/8"]);
        for malformed in [
            "for=6.6.6.1;for=1.2.3.4",
            "for=6.6.6.1;FOR=6.6.6.1",
            "for=6.6.6.1;host=\"a",
            "for=6.6.6.1 proto=http",
            "for =6.6.6.1",
            "proto=http",
            "",
        ] {
            assert_eq!(forwarded(malformed), "10.1.1.1", "{malformed}");
            let behind = format!("{malformed}, for=10.2.2.2");
            // An open quote hides what follows it, too.
            let nearest = if malformed.ends_with("\"a") { "10.1.1.1" } else { "10.2.2.2" };
            assert_eq!(forwarded(&behind), nearest, "{behind}");
        }
        let two_lines = [("forwarded", "for=6.6.6.6;host=\"a"), ("forwarded", "for=1.2.3.4")];
        assert_eq!(
            seen("10.1.1.1", &two_lines, &["10.0.0.0/8"]),
            "1.2.3.4",
            "a line is read alone"
        );
    }

    #[test]
    fn quotes_mean_nothing_in_x_forwarded_for() {
        let listed = |text: &str| seen("10.1.1.1", &[("x-forwarded-for", text)], &["10.0.0.0/8"]);
        assert_eq!(listed("\"6.6.6.6, 1.2.3.4"), "1.2.3.4");
        assert_eq!(listed("\"6.6.6.6\", 10.2.2.2"), "10.2.2.2");
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_read(line in "[ -~]{0,64}") {
            let _ = seen("10.1.1.1", &[("forwarded", &line)], &["10.0.0.0/8"]);
            let _ = seen("10.1.1.1", &[("x-forwarded-for", &line)], &["10.0.0.0/8"]);
        }
    }
}
