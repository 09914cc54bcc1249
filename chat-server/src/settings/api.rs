//! Settings of the API for backends.

use std::time::SystemTime;

use chat_server::{ApiKey, ApiScope, InvalidApiKey, Secret, ServerConfig};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser};

use super::value::{Invalid, RateArg, api_key, date, text};

#[derive(Debug, Args)]
#[command(next_help_heading = "API for backends")]
pub(crate) struct Api {
    /// Key of 16 bytes or more that a backend sends to use /api, with every scope; further keys are
    /// tables of the file [default: none; without any key there is no /api]
    #[arg(long, value_name = "KEY", hide_env_values = true, value_parser = api_key)]
    api_key: Option<Secret>,

    /// Whether the port for clients has /api; the address of --metrics-addr has it in any case
    #[arg(
        long,
        action = clap::ArgAction::Set,
        value_name = "SWITCH",
        default_value = "on",
        value_parser = PossibleValuesParser::new(["on", "off"]).map(|switch| switch == "on"),
    )]
    api_on_clients_port: bool,

    #[arg(skip)]
    pub(super) keys: Vec<ApiKeyTable>,
}

/// A key of a backend: a table `[[api_keys]]` of the file, and in no other source.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
pub(super) struct ApiKeyTable {
    /// Name of the key in the log, in metrics and as sender: letters, digits and dashes
    #[arg(long, value_name = "NAME", value_parser = key_name)]
    name: String,

    /// SHA-256 of the secret, as chat-server key prints it: sha256:…; a list of them while the secret
    /// is replaced
    #[arg(long, required = true, value_name = "HASH", value_parser = key_hash)]
    hash: Vec<String>,

    #[command(flatten)]
    rights: Rights,
}

/// What a key may do.
#[derive(Debug, Args)]
pub(super) struct Rights {
    /// List of what the key may be used for
    #[arg(long, required = true, value_name = "SCOPE", value_delimiter = ',', value_parser = scope())]
    pub(super) scopes: Vec<ApiScope>,

    /// Rooms and users that the key is for: a list of patterns as in tokens, of users after an @
    /// [default: all]
    #[arg(long, value_name = "PATTERN", value_parser = text)]
    pub(super) rooms: Vec<String>,

    /// Calls with the key on one server: a second / at once [default: off]
    #[arg(long, value_name = "RATE")]
    pub(super) rate: Option<RateArg>,

    /// When the key ends, in UTC: the beginning of a day, such as 2027-06-30, or a time, such as
    /// 2027-06-30T12:00:00Z [default: never]
    #[arg(long, value_name = "DATE", value_parser = date)]
    pub(super) until: Option<SystemTime>,
}

fn key_name(name: &str) -> Result<String, InvalidApiKey> {
    ApiKey::generate(name).map(|(key, _)| key.name().to_owned())
}

fn key_hash(hash: &str) -> Result<String, InvalidApiKey> {
    ApiKey::with_hash("key", hash).map(|key| key.hash())
}

fn scope() -> impl TypedValueParser<Value = ApiScope> {
    let names = ApiScope::ALL.map(ApiScope::as_str);
    PossibleValuesParser::new(names)
        .try_map(|name| ApiScope::parse(&name).ok_or_else(|| format!("{name} is no scope")))
}

impl Api {
    /// # Errors
    /// The API is taken off the port for clients, and is on no other.
    pub(super) fn add_to(&self, server: &mut ServerConfig) -> Result<(), Invalid> {
        server.api_key = self.api_key.clone().filter(|key| !key.reveal().is_empty());
        let key = |table: &ApiKeyTable| {
            table.key().map_err(|error| Invalid::new("api_keys", &table.name, error.to_string()))
        };
        server.api_keys = self.keys.iter().map(key).collect::<Result<_, _>>()?;
        server.serve_api = self.api_on_clients_port;
        if !server.serve_api && server.serve_metrics {
            let why = "it needs metrics-addr, the other address with /api";
            return Err(Invalid::new("api-on-clients-port", "off", why));
        }
        Ok(())
    }

    /// Whether a key has ended.
    pub(super) fn has_ended_key(&self) -> bool {
        self.ended_keys().next().is_some()
    }

    /// The names of the keys that have ended.
    pub(crate) fn ended_keys(&self) -> impl Iterator<Item = &str> {
        let now = SystemTime::now();
        let has_ended =
            move |table: &&ApiKeyTable| table.rights.until.is_some_and(|end| end <= now);
        self.keys.iter().filter(has_ended).map(|table| &*table.name)
    }
}

impl ApiKeyTable {
    /// The keys that a table must have, each with a value that can be read.
    pub(super) const REQUIRED: &'static [(&'static str, &'static str)] = &[
        ("name", "name"),
        ("hash", "sha256:0000000000000000000000000000000000000000000000000000000000000000"),
        ("scopes", "send"),
    ];

    fn key(&self) -> Result<ApiKey, InvalidApiKey> {
        let (first, further) = self.hash.split_first().ok_or(InvalidApiKey::Hash)?;
        let key = ApiKey::with_hash(&self.name, first)?;
        let key = further.iter().try_fold(key, |key, hash| key.also_hash(hash))?;
        Ok(self.rights.add_to(key))
    }
}

impl Rights {
    pub(super) fn add_to(&self, key: ApiKey) -> ApiKey {
        let key = key.scopes(self.scopes.iter().copied()).until(self.until);
        let key = key.rate(self.rate.and_then(|rate| rate.0));
        if self.rooms.is_empty() { key } else { key.rooms(&self.rooms) }
    }

    /// The lines of the table of a key with these rights.
    pub(super) fn lines(&self, key: &ApiKey) -> Vec<String> {
        let list = |texts: Vec<&str>| texts.into_iter().map(quoted).collect::<Vec<_>>().join(", ");
        let scopes = self.scopes.iter().map(|scope| scope.as_str()).collect();
        let mut lines = vec![
            format!("name = {}", quoted(key.name())),
            format!("hash = {}", quoted(&key.hash())),
            format!("scopes = [{}]", list(scopes)),
        ];
        if !self.rooms.is_empty() {
            let rooms = self.rooms.iter().map(String::as_str).collect();
            lines.push(format!("rooms = [{}]", list(rooms)));
        }
        if let Some(rate) = self.rate.and_then(|rate| rate.0) {
            lines.push(format!("rate = \"{rate}\""));
        }
        if let Some(until) = self.until {
            lines.push(format!("until = \"{}\"", humantime::format_rfc3339_seconds(until)));
        }
        lines
    }
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let escaped = text.chars().map(|char| match char {
        '"' => "\\\"".to_owned(),
        '\\' => "\\\\".to_owned(),
        char if char.is_control() => format!("\\u{:04x}", u32::from(char)),
        char => char.to_string(),
    });
    format!("\"{}\"", escaped.collect::<String>())
}
