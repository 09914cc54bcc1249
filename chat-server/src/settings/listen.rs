//! Settings of where the server listens, and for whom.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use chat_server::{ForwardedHeader, IpNet, ServerConfig};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::value::{Invalid, MILLISECOND, YEAR, address, filled, network, number, text, time};

/// Browsers try both for `localhost`, and ignore `/etc/hosts` for this name.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// The most workers that a hub has.
const MAX_THREADS: usize = 256;

#[derive(Debug, Args)]
#[command(next_help_heading = "Listening")]
pub(crate) struct Listen {
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value = "8080", value_parser = number(0..=u16::MAX))]
    pub(crate) port: u16,

    /// Address or name to listen on; 0.0.0.0 is every address [default: 127.0.0.1 and ::1]
    #[arg(long, value_name = "ADDRESS", value_parser = text)]
    host: Option<String>,

    /// Address for /metrics, such as 127.0.0.1:9100, with /healthz, /readyz and /api beside it, other
    /// than that for clients; the port for clients has no /metrics then [default: the port for clients]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) metrics_addr: Option<SocketAddr>,

    /// Threads that serve clients; each but one has a second thread beside it that delivers
    /// messages under load; at most 256 [default: the number of cores minus one, at least one]
    #[arg(long, value_parser = number(1..=MAX_THREADS))]
    threads: Option<usize>,

    /// First part of the links that POST /create-room returns [default: http:// and the Host of
    /// the request]
    #[arg(long, value_name = "URL", value_parser = text)]
    public_url: Option<String>,

    /// Hosts that clients may use besides that of --public-url, localhost and addresses, such
    /// as chat.example or .chat.example for all names below it; separated by commas; * is any
    /// [default: none]
    #[arg(long, value_name = "HOST", value_delimiter = ',', value_parser = text)]
    allow_host: Vec<String>,

    /// Origins of web pages that may use this server besides those on its own host, such
    /// as https://app.example; separated by commas [default: none]
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',', value_parser = text)]
    allow_origin: Vec<String>,

    /// Proxies that say where clients are: addresses and networks such as 10.0.0.0/8, separated by
    /// commas [default: none]
    #[arg(long, value_name = "NETWORK", value_delimiter = ',', value_parser = network)]
    trusted_proxies: Vec<Option<IpNet>>,

    /// Header in which these proxies write the address of the client
    #[arg(long, value_name = "HEADER", default_value = "x-forwarded-for", value_parser = header())]
    forwarded_header: ForwardedHeader,

    /// How long a shutdown waits for clients
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time(MILLISECOND..=YEAR))]
    drain_timeout: Duration,

    /// Over how long the clients of a server that shuts down reconnect to others, at most; and at
    /// most half of --drain-timeout
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = time(Duration::ZERO..=YEAR))]
    drain_spread: Duration,
}

fn header() -> impl TypedValueParser<Value = ForwardedHeader> {
    PossibleValuesParser::new(["x-forwarded-for", "forwarded"]).map(|name| match &*name {
        "forwarded" => ForwardedHeader::Forwarded,
        _ => ForwardedHeader::XForwardedFor,
    })
}

impl Listen {
    pub(super) fn add_to(&self, server: &mut ServerConfig) {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        server.serve_metrics = self.metrics_addr.is_none();
        server.public_url = given(&self.public_url);
        server.allow_host = filled(&self.allow_host);
        server.allow_origin = filled(&self.allow_origin);
        server.trusted_proxies = self.trusted_proxies.iter().copied().flatten().collect();
        server.forwarded_header = self.forwarded_header;
        server.drain_timeout = self.drain_timeout;
        server.drain_spread = self.drain_spread;
    }

    /// Whether other machines may reach the port for clients.
    pub(super) fn is_public(&self) -> bool {
        let of_machine = |host: &str| {
            let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
            address.map_or(host.eq_ignore_ascii_case("localhost"), |address| address.is_loopback())
        };
        self.host().is_some_and(|host| !of_machine(host))
    }

    /// The addresses for clients, unless `host` is a name that has to be looked up.
    pub(crate) fn known_addresses(&self) -> Option<Vec<SocketAddr>> {
        let ips = match self.host() {
            Some(host) if !host.eq_ignore_ascii_case("localhost") => {
                Vec::from([host.trim_matches(['[', ']']).parse().ok()?])
            }
            _ => LOOPBACK.to_vec(),
        };
        Some(ips.into_iter().map(|ip| SocketAddr::new(ip, self.port)).collect())
    }

    /// # Errors
    /// `metrics-addr` is one of these addresses for clients, or one includes the other.
    pub(crate) fn check_apart(&self, clients: &[SocketAddr]) -> Result<(), Invalid> {
        let Some(operators) = self.metrics_addr else { return Ok(()) };
        match clients.iter().find(|clients| overlap(**clients, operators)) {
            None => Ok(()),
            Some(clients) => {
                let why =
                    format!("{clients} is for clients, by host and port: it needs another port");
                Err(Invalid::new("metrics-addr", operators, why))
            }
        }
    }

    pub(crate) fn host(&self) -> Option<&str> {
        self.host.as_deref().filter(|host| !host.is_empty())
    }

    /// By default all cores but one. A server whose last core is shared with the kernel's half of
    /// its own sockets, and with Redis, wakes up for single messages and gathers none.
    pub(crate) fn threads(&self) -> NonZeroUsize {
        let all_but_one = || {
            let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
            cores - 1
        };
        NonZeroUsize::new(self.threads.unwrap_or_else(all_but_one)).unwrap_or(NonZeroUsize::MIN)
    }
}

/// Whether a program cannot listen on both: they are the same, or one is every address of a machine.
/// That of IPv6 includes those of IPv4, as the server listens. Port 0 is a free one each time.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let (one_ip, other_ip) = (one.ip().to_canonical(), other.ip().to_canonical());
    let includes =
        |all: IpAddr, ip: IpAddr| all.is_unspecified() && (all.is_ipv6() || ip.is_ipv4());
    one.port() == other.port()
        && one.port() != 0
        && (one_ip == other_ip || includes(one_ip, other_ip) || includes(other_ip, one_ip))
}

#[cfg(test)]
mod tests {
    use super::super::Settings;

    #[test]
    fn operators_have_an_address_of_their_own() {
        let error = |host: &str, metrics: &str| {
            let file = format!("host = \"{host}\"\nport = 9100\nmetrics-addr = \"{metrics}\"");
            let outcome = Settings::of_file(&file, &[]).unwrap().server();
            outcome.err().map(|error| error.message(|name| format!("[{name}]")))
        };
        for (host, metrics) in [
            ("", "127.0.0.1:9100"),
            ("localhost", "[::1]:9100"),
            ("127.0.0.1", "0.0.0.0:9100"),
            ("0.0.0.0", "127.0.0.1:9100"),
            ("::", "127.0.0.1:9100"),
            ("[::]", "0.0.0.0:9100"),
            ("0.0.0.0", "[::]:9100"),
            ("::1", "[::]:9100"),
            ("127.0.0.1", "[::ffff:127.0.0.1]:9100"),
        ] {
            let error = error(host, metrics).unwrap_or_else(|| panic!("{host} {metrics}"));
            assert!(error.contains("for [metrics-addr]: "), "{error}");
            assert!(error.contains("is for clients, by host and port"), "{error}");
        }
        for (host, metrics) in [
            ("", "127.0.0.1:9101"),
            ("", "127.0.0.2:9100"),
            ("127.0.0.1", "10.0.0.1:9100"),
            ("0.0.0.0", "[::1]:9100"),
            ("::1", "0.0.0.0:9100"),
        ] {
            assert_eq!(error(host, metrics), None, "{host} {metrics}");
        }
        let free = "port = 0\nmetrics-addr = \"127.0.0.1:0\"";
        assert!(Settings::of_file(free, &[]).unwrap().server().is_ok());
    }
}
