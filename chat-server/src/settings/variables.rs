//! The names of variables, and those that are no setting: typing errors, and what platforms set.

use chat_core::printable;
use clap::Command;
use strsim::{jaro, levenshtein, osa_distance};

/// What the names of variables begin with.
pub(super) const PREFIX: &str = "CHAT_";

/// Variables that platforms set by themselves, and those that other programs share with this one:
/// they count without [`PREFIX`] as well.
pub(super) const UNPREFIXED: [&str; 5] = ["PORT", "HOST", "REDIS_URL", "JWT_SECRET", "API_KEY"];

/// How similar a name must be to one that is meant: as clap asks of flags.
const LEAST_SIMILARITY: f64 = 0.7;

/// The end of an error about `name`: which of `known` is meant, if one is like it.
pub(super) fn did_you_mean<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    nearest(name, known).map_or_else(String::new, |known| format!("; did you mean {known}?"))
}

/// Which of `known` is meant by `name`, if one is like it.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let similarity = |known: &&str| jaro(name, known);
    let nearest = known.max_by(|one, other| similarity(one).total_cmp(&similarity(other)));
    nearest.filter(|known| similarity(known) > LEAST_SIMILARITY)
}

/// What is wrong with those of `variables` that begin as settings do, and are none of `command`: in
/// one line, so that all can be mended at once.
pub(super) fn unknown<'a>(
    variables: impl Iterator<Item = &'a str>,
    command: &Command,
) -> Option<String> {
    let known = settings_of(command);
    let is_known = |name: &&str| known.iter().any(|known| known == name);
    let errors = variables.filter(|name| !is_known(name)).filter_map(|name| {
        // In any case: `chat_jwt_secret` must not leave a server open.
        let upper = name.to_ascii_uppercase();
        // All have the prefix, which would make them alike.
        let bare = known.iter().filter_map(|known| known.strip_prefix(PREFIX));
        let meant = did_you_mean(upper.strip_prefix(PREFIX)?, bare);
        let meant = meant.replace("mean ", &format!("mean {PREFIX}"));
        Some(format!("{}: no such setting{meant}", printable(name)))
    });
    let errors: Vec<_> = errors.collect();
    (!errors.is_empty()).then(|| errors.join("; "))
}

/// The variables of a command and of its subcommands.
fn settings_of(command: &Command) -> Vec<String> {
    let own = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str().map(str::to_owned));
    let of_alias = UNPREFIXED.map(|bare| format!("{PREFIX}{bare}"));
    own.chain(of_alias).chain(command.get_subcommands().flat_map(settings_of)).collect()
}

/// The alias of a setting that `name` was meant to be, such as `JWT_SECRET` for `JWT_SECERT`. Other
/// programs have variables too, so it differs by one edit, and by two in a long name.
pub(super) fn near_alias(name: &str) -> Option<&'static str> {
    let upper = name.to_ascii_uppercase();
    let is_near = |alias: &&str| match alias.len() {
        // Another letter makes another word (`COST`, `SORT`): two must have changed places.
        ..=4 => osa_distance(name, alias) == 1 && levenshtein(name, alias) == 2,
        5..=8 => osa_distance(&upper, alias) <= 1,
        9.. => osa_distance(&upper, alias) <= 2,
    };
    UNPREFIXED.into_iter().filter(|alias| name != *alias).find(is_near)
}

/// Whether Kubernetes or Docker has set a variable for a service, as they do in each container beside
/// it: `CHAT_SERVICE_HOST`, `CHAT_SERVICE_PORT_HTTP`, `CHAT_PORT=tcp://10.0.0.1:80` and
/// `CHAT_PORT_80_TCP_ADDR` for one that is named `chat`.
pub(super) fn is_service_link(name: &str, value: &str) -> bool {
    let is_url = || ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let is_of_port = |(_, rest): (&str, &str)| {
        let mut parts = rest.split('_');
        let is_number = parts.next().is_some_and(|part| part.parse::<u16>().is_ok());
        let is_protocol = matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"));
        let is_detail = matches!(parts.next(), None | Some("ADDR" | "PORT" | "PROTO"));
        is_number && is_protocol && is_detail && parts.next().is_none()
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && is_url())
        || name.match_indices("_PORT_").any(|(at, port)| {
            let (service, rest) = name.split_at(at);
            is_of_port((service, &rest[port.len()..]))
        })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::{Cli, Sources};
    use super::*;

    #[test]
    fn unknown_variables_are_named_with_the_nearest_setting() {
        let command = Sources::default().with_variables(Cli::command());
        let unknown = |names: &[&str]| unknown(names.iter().copied(), &command);
        let errors = unknown(&["PATH", "CHAT_JWT_SECERT", "CHAT_PORT", "CHAT_XYZZY"]).unwrap();
        assert_eq!(
            errors,
            "CHAT_JWT_SECERT: no such setting; did you mean CHAT_JWT_SECRET?; CHAT_XYZZY: no such \
             setting"
        );
        for (name, meant) in [
            ("CHAT_MAXROOMS", "CHAT_MAX_ROOMS"),
            ("CHAT_TRUSTED_PROXY", "CHAT_TRUSTED_PROXIES"),
            ("CHAT_ALLOWED_ORIGIN", "CHAT_ALLOW_ORIGIN"),
            ("CHAT_LOG_LEVEL", "CHAT_LOG"),
            ("chat_jwt_secret", "CHAT_JWT_SECRET"),
            ("CHAT_JWT_SECR\u{fffd}T", "CHAT_JWT_SECRET"),
        ] {
            let error = unknown(&[name]).unwrap();
            assert!(error.ends_with(&format!("did you mean {meant}?")), "{error}");
        }
        assert_eq!(unknown(&["CHAT_CONFIG", "CHAT_REDIS_URL", "CHATTY", "XCHAT_PORT"]), None);
    }

    #[test]
    fn misspelled_alias_is_found() {
        for (name, alias) in [
            ("JWT_SECERT", Some("JWT_SECRET")),
            ("JWTSECRET", Some("JWT_SECRET")),
            ("REDIS_URI", Some("REDIS_URL")),
            ("API_KEYS", Some("API_KEY")),
            ("PROT", Some("PORT")),
            ("jwt_secret", Some("JWT_SECRET")),
            ("SORT", None),
            ("POST", None),
            ("COST", None),
            ("port", None),
            ("JWT_SECRET", None),
            ("HOSTNAME", None),
            ("HOME", None),
            ("SECRET", None),
            ("PATH", None),
        ] {
            assert_eq!(near_alias(name), alias, "{name}");
        }
    }

    #[test]
    fn service_links_are_known_by_their_forms() {
        for (name, value) in [
            ("CHAT_SERVICE_HOST", "10.0.0.1"),
            ("CHAT_SERVER_SERVICE_PORT", "80"),
            ("CHAT_SERVICE_PORT_HTTP", "80"),
            ("CHAT_PORT", "tcp://10.0.0.1:80"),
            ("CHAT_REDIS_PORT", "udp://10.0.0.1:53"),
            ("CHAT_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("CHAT_PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("CHAT_REDIS_PORT_6379_TCP_PROTO", "tcp"),
        ] {
            assert!(is_service_link(name, value), "{name}");
        }
        for (name, value) in [
            ("CHAT_PORT", "8080"),
            ("CHAT_PORT_HTTP", "8080"),
            ("CHAT_PORT_8080", "x"),
            ("CHAT_SERVICE", "chat"),
            ("CHAT_API_ON_CLIENTS_PORT", "off"),
        ] {
            assert!(!is_service_link(name, value), "{name}");
        }
    }
}
