//! Settings of what clients may use.

use std::time::Duration;

use chat_server::{LimitsConfig, Rate, Rates};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::value::{MAX_COUNT, RateArg, YEAR, number, time};

/// Of the settings in this file.
pub(super) const HEADING: &str = "Limits";

/// Behind a proxy that tells addresses apart: enough for an office behind one of them.
const CONNECTIONS_PER_ADDRESS: usize = 100;
const HTTP_RATE_PER_ADDRESS: Rate = Rate::new(100, 500);

#[derive(Debug, Args)]
#[command(next_help_heading = HEADING)]
pub(crate) struct Limits {
    /// Whether rates and counts are limited; off lifts all of them, for load tests. Outbox, frames
    /// and handshakes are bounded in any case
    #[arg(
        long = "limits",
        id = "limits",
        action = clap::ArgAction::Set,
        value_name = "SWITCH",
        default_value = "on",
        value_parser = PossibleValuesParser::new(["on", "off"]).map(|switch| switch == "on"),
    )]
    pub(crate) enabled: bool,

    /// Connections to this server; one above it gets 503 [default: 100000, or what the
    /// system's limit of open files allows]
    #[arg(long, value_name = "CONNECTIONS", value_parser = number(1..=MAX_COUNT))]
    max_connections: Option<usize>,

    /// Connections from one address (of IPv6: from one /64); one above it gets 429
    /// [default: none; 100 with --trusted-proxies]
    #[arg(long, value_name = "CONNECTIONS", value_parser = number(1..=MAX_COUNT))]
    max_connections_per_address: Option<usize>,

    /// Rooms that one connection may be in
    #[arg(long, value_name = "ROOMS", default_value = "128", value_parser = number(1..=MAX_COUNT))]
    max_rooms: usize,

    /// Rooms that all connections of a user may be in together
    #[arg(long, value_name = "ROOMS", default_value = "1536", value_parser = number(1..=MAX_COUNT))]
    max_rooms_per_user: usize,

    /// Requests by HTTP on one connection, handshakes included: a second / at once; or off. A
    /// request above the rate is delayed
    #[arg(long, value_name = "RATE", default_value = "50/200")]
    http_rate: RateArg,

    /// Requests by HTTP from one address; one delayed for longer than 5 s gets 429
    /// [default: off; 100/500 with --trusted-proxies]
    #[arg(long, value_name = "RATE")]
    http_rate_per_address: Option<RateArg>,

    /// Frames of one connection: a second / at once; or off. A connection beyond a rate is read
    /// later
    #[arg(long, default_value = "50/300")]
    rate: RateArg,

    /// Frames of all connections of a user
    #[arg(long, value_name = "RATE", default_value = "100/1500")]
    rate_per_user: RateArg,

    /// Frames of all connections from one address [default: off; 500/5000 with
    /// --trusted-proxies]
    #[arg(long, value_name = "RATE")]
    rate_per_address: Option<RateArg>,

    /// Bytes of frames of one connection
    #[arg(long, value_name = "RATE", default_value = "256K/256K")]
    byte_rate: RateArg,

    /// Bytes of frames of all connections of a user
    #[arg(long, value_name = "RATE", default_value = "256K/256K")]
    byte_rate_per_user: RateArg,

    /// Bytes of frames of all connections from one address [default: off; 2M/8M with
    /// --trusted-proxies]
    #[arg(long, value_name = "RATE")]
    byte_rate_per_address: Option<RateArg>,

    /// Bytes of the answers that one connection requests: joined, members, history
    #[arg(long, value_name = "RATE", default_value = "2M/16M")]
    answer_rate: RateArg,

    /// Bytes of the answers that all connections of a user request
    #[arg(long, value_name = "RATE", default_value = "4M/32M")]
    answer_rate_per_user: RateArg,

    /// Bytes of the answers that all connections from one address request [default: off; 32M/256M
    /// with --trusted-proxies]
    #[arg(long, value_name = "RATE")]
    answer_rate_per_address: Option<RateArg>,

    /// Bytes that the messages of one connection add to Redis
    #[arg(long, value_name = "RATE", default_value = "15000/3M")]
    kept_rate: RateArg,

    /// Bytes that the messages of all connections of a user add to Redis
    #[arg(long, value_name = "RATE", default_value = "15000/3M")]
    kept_rate_per_user: RateArg,

    /// Bytes that the messages of all connections from one address add to Redis [default: off;
    /// 150000/32M with --trusted-proxies]
    #[arg(long, value_name = "RATE")]
    kept_rate_per_address: Option<RateArg>,

    /// Joins of one connection
    #[arg(long, value_name = "RATE", default_value = "10/256")]
    join_rate: RateArg,

    /// Kicks and bans by one user
    #[arg(long, value_name = "RATE", default_value = "1/30")]
    sanction_rate: RateArg,

    /// How long a frame may wait for rates that are used up before it is refused
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = time(Duration::ZERO..=YEAR))]
    max_wait: Duration,
}

impl Limits {
    /// Whether the system's limit of open files bounds the number of connections.
    pub(crate) fn connections_by_system(&self) -> bool {
        self.enabled && self.max_connections.is_none()
    }

    /// Behind proxies that tell them apart, addresses are worth counting.
    pub(super) fn config(&self, addresses_are_known: bool) -> LimitsConfig {
        if !self.enabled {
            return LimitsConfig::off();
        }
        let mut limits = LimitsConfig::default();
        if addresses_are_known {
            limits.connections_per_address = Some(CONNECTIONS_PER_ADDRESS);
            limits.http_requests_per_address = Some(HTTP_RATE_PER_ADDRESS);
            limits.address = LimitsConfig::per_address();
        }
        limits.connections = self.max_connections.or(limits.connections);
        limits.connections_per_address =
            self.max_connections_per_address.or(limits.connections_per_address);
        limits.http_requests = self.http_rate.0;
        set(&mut limits.http_requests_per_address, self.http_rate_per_address);
        limits.max_wait = self.max_wait;
        limits.rooms = Some(self.max_rooms);
        limits.rooms_per_user = Some(self.max_rooms_per_user);
        self.set_rates(&mut limits.connection, &mut limits.user, &mut limits.address);
        limits
    }

    fn set_rates(&self, connection: &mut Rates, user: &mut Rates, address: &mut Rates) {
        connection.frames = self.rate.0;
        connection.received_bytes = self.byte_rate.0;
        connection.answer_bytes = self.answer_rate.0;
        connection.kept_bytes = self.kept_rate.0;
        connection.joins = self.join_rate.0;
        user.frames = self.rate_per_user.0;
        user.received_bytes = self.byte_rate_per_user.0;
        user.answer_bytes = self.answer_rate_per_user.0;
        user.kept_bytes = self.kept_rate_per_user.0;
        user.sanctions = self.sanction_rate.0;
        set(&mut address.frames, self.rate_per_address);
        set(&mut address.received_bytes, self.byte_rate_per_address);
        set(&mut address.answer_bytes, self.answer_rate_per_address);
        set(&mut address.kept_bytes, self.kept_rate_per_address);
    }
}

fn set(rate: &mut Option<Rate>, given: Option<RateArg>) {
    *rate = given.map_or(*rate, |given| given.0);
}
