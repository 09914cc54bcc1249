//! Settings of where the server listens, and for whom.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use chat_server::{ForwardedHeader, IpNet, ServerConfig};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::value::{MILLISECOND, YEAR, address, filled, network, number, text, time};

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

    /// Address for /metrics, such as 127.0.0.1:9100, with /healthz, /readyz and /api beside it; the
    /// port for clients has no /metrics then [default: the port for clients]
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

    /// Over how long the clients of a server that shuts down reconnect to others, at most
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
