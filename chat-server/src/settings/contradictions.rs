//! Settings that are set and have no effect, or less than they say, because of another. A server works
//! with them; those with which it could not are errors of [`Settings::server`].

use chat_server::{LimitsConfig, Rate, Rates, ServerConfig};

use super::Settings;

/// Redis disconnects a subscriber for which it holds 8 MiB for a minute, by default.
const MAX_REDIS_MESSAGE: usize = 4 << 20;

/// A setting, the one that takes its effect, and in which way.
struct Contradiction {
    is_so: bool,
    setting: &'static str,
    by: &'static str,
    why: &'static str,
}

const fn pair(
    is_so: bool,
    setting: &'static str,
    by: &'static str,
    why: &'static str,
) -> Contradiction {
    Contradiction { is_so, setting, by, why }
}

impl Settings {
    /// A line for each setting that another takes the effect of. `server` is the configuration by these
    /// settings. Defaults are no mistake: those who set a shorter `drain-timeout` alone mean that.
    pub(super) fn contradictions(&self, server: &ServerConfig) -> Vec<String> {
        let pairs = self.of_times_and_sizes(server).into_iter();
        let pairs = pairs.chain(self.of_redis()).chain(of_limits(&server.limits));
        let found = pairs.filter(|pair| pair.is_so && self.values.is_given(pair.setting));
        found
            .map(|Contradiction { setting, by, why, .. }| format!("{setting} and {by}: {why}"))
            .collect()
    }

    fn of_times_and_sizes(&self, server: &ServerConfig) -> Vec<Contradiction> {
        let message = server.max_message_bytes;
        let keeps_less = self.rooms.kept_bytes().is_some_and(|bytes| bytes < message);
        let one_message =
            "a room keeps less than the longest message takes: one removes all others";
        Vec::from([
            pair(
                server.drain_spread > server.drain_timeout / 2,
                "drain-spread",
                "drain-timeout",
                "the first is more than half of the second, and half of the second counts",
            ),
            pair(keeps_less, "history-bytes", "max-message-bytes", one_message),
            pair(keeps_less, "max-message-bytes", "history-bytes", one_message),
            pair(
                self.redis.url().is_some() && message > MAX_REDIS_MESSAGE,
                "max-message-bytes",
                "redis-url",
                "Redis may disconnect servers at messages of more than 4 MiB, unless its \
                 client-output-buffer-limit for pubsub is raised",
            ),
            pair(
                server.transport.heartbeat.is_none(),
                "pong-timeout",
                "ping-interval",
                "there are no pings, so no answer is awaited",
            ),
            pair(
                server.trusted_proxies.is_empty(),
                "forwarded-header",
                "trusted-proxies",
                "no proxy is trusted, so the header is not read",
            ),
        ])
    }
}

impl Settings {
    fn of_redis(&self) -> impl Iterator<Item = Contradiction> {
        let is_absent = self.redis.url().is_none();
        let why = "there is no Redis: rooms live in the memory of this process";
        ["redis-ca", "redis-cert", "redis-key", "redis-prefix", "presence-lease"]
            .into_iter()
            .map(move |setting| pair(is_absent, setting, "redis-url", why))
    }
}

fn of_limits(limits: &LimitsConfig) -> Vec<Contradiction> {
    const BOTH_COUNT: &str = "the first is greater than the second, and both count";
    let count = |one: Option<usize>, other: Option<usize>, setting, by| {
        let is_so = one.zip(other).is_some_and(|(one, other)| one > other);
        pair(is_so, setting, by, BOTH_COUNT)
    };
    let rate = |one: Option<Rate>, other: Option<Rate>, setting, by| {
        let is_greater = |(one, other): (Rate, Rate)| {
            one.per_second() > other.per_second() || one.burst() > other.burst()
        };
        pair(one.zip(other).is_some_and(is_greater), setting, by, BOTH_COUNT)
    };
    let LimitsConfig { connection, user, address, .. } = limits;
    let mut pairs = Vec::from([
        count(limits.rooms, limits.rooms_per_user, "max-rooms", "max-rooms-per-user"),
        count(
            limits.connections_per_address,
            limits.connections,
            "max-connections-per-address",
            "max-connections",
        ),
        rate(
            limits.http_requests,
            limits.http_requests_per_address,
            "http-rate",
            "http-rate-per-address",
        ),
    ]);
    type Of = fn(&Rates) -> Option<Rate>;
    let rates: [([&'static str; 3], Of); 4] = [
        (["rate", "rate-per-user", "rate-per-address"], |rates| rates.frames),
        (["byte-rate", "byte-rate-per-user", "byte-rate-per-address"], |rates| {
            rates.received_bytes
        }),
        (["answer-rate", "answer-rate-per-user", "answer-rate-per-address"], |rates| {
            rates.answer_bytes
        }),
        (["kept-rate", "kept-rate-per-user", "kept-rate-per-address"], |rates| rates.kept_bytes),
    ];
    for ([of_connection, of_user, of_address], of) in rates {
        pairs.push(rate(of(connection), of(user), of_connection, of_user));
        pairs.push(rate(of(connection), of(address), of_connection, of_address));
        pairs.push(rate(of(user), of(address), of_user, of_address));
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_has_a_line_if_the_first_is_set() {
        let found = |file: &str| {
            let settings = Settings::of_file(file, &[]).unwrap();
            let lines = settings.contradictions(&settings.server().unwrap());
            lines.iter().map(|line| line.split(':').next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let trusted = "trusted-proxies = \"10.0.0.0/8\"";
        for (file, line) in [
            ("drain-spread = \"6s\"", "drain-spread and drain-timeout"),
            ("drain-spread = \"4s\"\ndrain-timeout = \"5s\"", "drain-spread and drain-timeout"),
            ("history-bytes = 10000", "history-bytes and max-message-bytes"),
            (
                "max-message-bytes = 2000000\noutbox-bytes = 100000000",
                "max-message-bytes and history-bytes",
            ),
            ("ping-interval = \"0s\"\npong-timeout = \"5s\"", "pong-timeout and ping-interval"),
            ("forwarded-header = \"forwarded\"", "forwarded-header and trusted-proxies"),
            ("redis-cert = \"a\"", "redis-cert and redis-url"),
            ("presence-lease = \"20s\"", "presence-lease and redis-url"),
            ("max-rooms = 2000", "max-rooms and max-rooms-per-user"),
            ("rate = \"101/200\"", "rate and rate-per-user"),
            ("rate = \"50/2000\"", "rate and rate-per-user"),
            (
                "byte-rate = \"1M\"\nbyte-rate-per-user = \"512K/2M\"",
                "byte-rate and byte-rate-per-user",
            ),
            ("answer-rate = \"8M\"", "answer-rate and answer-rate-per-user"),
            ("kept-rate = \"1M/3M\"", "kept-rate and kept-rate-per-user"),
            (&format!("rate-per-user = 501\n{trusted}"), "rate-per-user and rate-per-address"),
            (&format!("http-rate = 501\n{trusted}"), "http-rate and http-rate-per-address"),
            (
                "max-connections = 5\nmax-connections-per-address = 6",
                "max-connections-per-address and max-connections",
            ),
        ] {
            assert_eq!(found(file), [line], "{file}");
        }
        let large = "redis-url = \"redis://a\"\nmax-message-bytes = 5000000\nhistory-bytes = 5000000\n\
                     outbox-bytes = 100000000";
        assert_eq!(found(large), ["max-message-bytes and redis-url"]);
        for fine in [
            "",
            "drain-timeout = \"1s\"",
            "redis-url = \"redis://a\"\nredis-prefix = \"a\"",
            "ping-interval = \"0s\"",
            "rate-per-user = 1",
            "rate = \"off\"",
            "limits = \"off\"\nrate = 1000",
            "history = 0\nhistory-bytes = 1",
            &format!("forwarded-header = \"forwarded\"\n{trusted}"),
        ] {
            assert_eq!(found(fine), [""; 0], "{fine}");
        }
    }
}
