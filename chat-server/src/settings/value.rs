//! How the values of settings are written, and which of them are refused.

use std::borrow::Cow;
use std::convert::Infallible;
use std::error::Error;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::num::{IntErrorKind, ParseIntError};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

#[cfg(any(test, feature = "jwks"))]
use axum::http::Uri;
use chat_core::RoomId;
use chat_server::{InvalidRate, IpNet, Rate, Secret};
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// The most of anything that is counted in bytes: more is a mistake.
pub(super) const MAX_BYTES: usize = 1 << 30;

/// The most of anything else that is counted: clients read some of these numbers, and those of
/// JavaScript are exact up to 2^53.
pub(super) const MAX_COUNT: usize = u32::MAX as usize;

pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const HOUR: Duration = Duration::from_secs(3600);
/// Sums of longer times with the present could overflow. The Julian year is what humantime
/// calls "1year".
pub(super) const YEAR: Duration = Duration::from_secs(31_557_600);

/// The fewest characters of an API key: a shorter one can be guessed.
const SHORTEST_KEY: usize = 16;

/// The secrets of former examples in the documentation.
const EXAMPLES: [&str; 3] = [
    "32 random bytes or more: openssl rand -hex 32",
    "32 random bytes or more",
    "16 random bytes or more",
];

/// What is wrong with the secret of an example, and what to do.
pub(super) const EXAMPLE: &str =
    "an example that everybody knows: write the output of openssl rand -hex 32 in its place";

/// The longest prefix of keys that `RedisConfig` takes.
const MAX_PREFIX_BYTES: usize = 64;

/// Why the value of a setting cannot be used.
#[derive(Debug)]
pub(crate) struct Invalid {
    setting: String,
    value: Option<String>,
    why: String,
}

impl Invalid {
    /// A value, and why it cannot be used.
    pub(crate) fn new(setting: &str, value: impl ToString, why: impl Into<String>) -> Self {
        Self { value: Some(value.to_string()), ..Self::hidden(setting, why) }
    }

    /// A value that is not shown: a secret, or one that says nothing.
    pub(crate) fn hidden(setting: &str, why: impl Into<String>) -> Self {
        Self { setting: setting.to_owned(), value: None, why: why.into() }
    }

    /// `name_of` returns the setting as its value was written.
    pub(super) fn message(&self, name_of: impl FnOnce(&str) -> String) -> String {
        let (name, why) = (name_of(&self.setting), &self.why);
        match &self.value {
            Some(value) => {
                format!("invalid value '{}' for {name}: {why}", shortened(value).escape_debug())
            }
            None => format!("invalid value for {name}: {why}"),
        }
    }
}

/// A rate such as `50/100`, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RateArg(pub(super) Option<Rate>);

impl FromStr for RateArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = trim(text);
        if text == "off" {
            return Ok(Self(None));
        }
        text.parse().map(|rate| Self(Some(rate))).map_err(|error: InvalidRate| error.to_string())
    }
}

/// Reads whole numbers in `range`.
pub(super) fn number<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: FromStr<Err = ParseIntError> + PartialOrd + Display + Clone,
{
    move |text| match trim(text).parse() {
        _ if trim(text).starts_with('+') => {
            Err("expected a whole number without a unit".to_owned())
        }
        Ok(number) if number < *range.start() => Err(format!("at least {}", range.start())),
        Ok(number) if number <= *range.end() => Ok(number),
        Err(error) if *error.kind() != IntErrorKind::PosOverflow => {
            Err("expected a whole number without a unit".to_owned())
        }
        Ok(_) | Err(_) => Err(format!("at most {}", range.end())),
    }
}

/// Reads by how much one thing exceeds another, such as `1.5`.
pub(super) fn factor(text: &str) -> Result<f64, String> {
    let factor = trim(text).parse().ok().filter(|factor| (0.01..=100.0).contains(factor));
    factor.ok_or_else(|| "expected a number from 0.01 to 100, such as 1.5".to_owned())
}

/// Reads times in `range`, such as `500ms`, `10s`, `5m` or `24h`. `M` is refused: humantime has it for
/// months, and rates for 1024².
pub(super) fn time(
    range: RangeInclusive<Duration>,
) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| {
        let expected = "expected a time such as 500ms, 10s, 5m or 24h";
        let time = humantime::parse_duration(trim(text)).map_err(|_| expected)?;
        if text.contains('M') {
            return Err(expected.to_owned());
        }
        if range.contains(&time) {
            return Ok(time);
        }
        let [least, most] =
            [range.start(), range.end()].map(|end| humantime::format_duration(*end));
        Err(format!("{least} to {most}"))
    }
}

/// Reads what `read` does, and 0, which switches something off.
pub(super) fn zero_or<T: Default>(
    read: impl Fn(&str) -> Result<T, String> + Clone,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| match trim(text) {
        "0" | "0s" | "0ms" => Ok(T::default()),
        text => read(text),
    }
}

#[allow(clippy::unnecessary_wraps, reason = "clap takes parsers that may fail")]
pub(super) fn text(text: &str) -> Result<String, Infallible> {
    Ok(trim(text).to_owned())
}

/// Reads the name of a file in a list, where spaces stand behind commas.
pub(super) fn file(text: &str) -> Result<PathBuf, String> {
    match trim(text) {
        "" => Err("expected the name of a file".to_owned()),
        name => Ok(name.into()),
    }
}

/// Reads a secret. A blank one stays: as the key of tokens it is too short, and without one
/// everybody would have access.
#[allow(clippy::unnecessary_wraps, reason = "clap takes parsers that may fail")]
pub(super) fn secret(text: &str) -> Result<Secret, Infallible> {
    let trimmed = trim(text);
    Ok(Secret::new(if trimmed.is_empty() { text } else { trimmed }))
}

/// Reads the name of a room. Nothing is removed around it: a name may begin with a space.
pub(super) fn room(text: &str) -> Result<String, String> {
    match RoomId::new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(why) => Err(format!("it {why}")),
    }
}

/// Refuses the secret of an example, which was to be replaced. Those of the documentation are in angle
/// brackets.
pub(super) fn check_no_example(secret: &str) -> Result<(), String> {
    let is_placeholder = secret.starts_with('<') && secret.ends_with('>');
    if is_placeholder || EXAMPLES.contains(&secret) {
        return Err(format!("it is {EXAMPLE}"));
    }
    Ok(())
}

pub(super) fn api_key(text: &str) -> Result<Secret, String> {
    let key = trim(text);
    check_no_example(key)?;
    let is_shown = key.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    if (1..SHORTEST_KEY).contains(&key.len()) || !is_shown {
        return Err(format!("at least {SHORTEST_KEY} characters of ASCII"));
    }
    Ok(Secret::new(key))
}

/// Reads a time in UTC, or a day, which stands for its beginning.
pub(super) fn date(text: &str) -> Result<SystemTime, String> {
    let text = trim(text);
    let is_day = !text.contains([':', 'T']);
    let time = if is_day { format!("{text} 00:00:00") } else { text.to_owned() };
    let expected = "expected a day such as 2027-06-30, or a time such as 2027-06-30T12:00:00Z";
    humantime::parse_rfc3339_weak(&time).map_err(|_| expected.to_owned())
}

pub(super) fn redis_prefix(text: &str) -> Result<String, String> {
    let prefix = trim(text);
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if prefix.len() > MAX_PREFIX_BYTES || !prefix.bytes().all(is_allowed) {
        return Err("1 to 64 letters, digits, '-', '_', '.' or ':'".to_owned());
    }
    Ok(prefix.to_owned())
}

/// Reads an address with a port.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let expected = "expected an address and a port: 127.0.0.1:9100";
    trim(text).parse().map_err(|_| expected.to_owned())
}

/// Reads a network such as `10.0.0.0/8`, an address, or nothing between two commas.
pub(super) fn network(text: &str) -> Result<Option<IpNet>, String> {
    let text = trim(text);
    if text.is_empty() {
        return Ok(None);
    }
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let shown = shortened(text);
    let expected = format!("'{shown}' is neither an address nor a network such as 10.0.0.0/8");
    network.map(Some).map_err(|_| expected)
}

/// Why a parser refuses a value, if that is the error.
pub(super) fn refusal(error: &clap::Error) -> Option<String> {
    let why = error.source().filter(|_| error.kind() == ErrorKind::ValueValidation);
    why.map(ToString::to_string)
}

/// Why a value is refused that is none of a list.
pub(super) fn none_of(error: &clap::Error) -> Option<String> {
    let ContextValue::Strings(known) = error.get(ContextKind::ValidValue)? else { return None };
    let meant = match error.get(ContextKind::SuggestedValue) {
        Some(ContextValue::String(meant)) => format!("; did you mean {meant}?"),
        _ => String::new(),
    };
    Some(format!("expected {}{meant}", known.join(", ")))
}

/// What an error shows of a value: a file in the place of its name may have megabytes.
pub(super) fn shortened(value: &str) -> Cow<'_, str> {
    const LONGEST: usize = 200;
    match value.char_indices().nth(LONGEST) {
        None => value.into(),
        Some((end, _)) => format!("{}…", &value[..end]).into(),
    }
}

/// A value without what surrounds it by mistake: white space, and the mark with which some editors
/// begin a file.
pub(super) fn trim(value: &str) -> &str {
    value.trim_matches(|char: char| char.is_whitespace() || char == '\u{feff}')
}

/// A URL with its scheme, host, port and path alone: the rest may hold a password or a token. `…` if
/// that cannot be told from the rest.
#[cfg(any(test, feature = "jwks"))]
pub(crate) fn url_without_secrets(url: &str) -> String {
    let hidden = || "…".to_owned();
    // A password with a `/` or `?` in it would be read as a path or a query.
    if url.contains('@') {
        return hidden();
    }
    let Ok(url) = url.parse::<Uri>() else { return hidden() };
    match (url.scheme_str(), url.authority()) {
        (Some(scheme), Some(authority)) => format!("{scheme}://{authority}{}", url.path()),
        _ => hidden(),
    }
}

/// The texts that are not empty: an empty variable says the same as none.
pub(super) fn filled(texts: &[String]) -> Vec<String> {
    texts.iter().filter(|text| !text.is_empty()).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units_and_bounds() {
        let read = time(SECOND..=HOUR);
        for (text, seconds) in [("1000ms", 1), ("10s", 10), ("5m", 300), (" 1h\r\n", 3600)] {
            assert_eq!(read(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for wrong in [
            "",
            "10",
            "s",
            "-1s",
            "99999999999999999999s",
            "0s",
            "999ms",
            "61m",
            "5M",
            "1,5m",
            "5 minuten",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert_eq!(read("2h"), Err("1s to 1h".to_owned()));
        assert_eq!(zero_or(read)("0s"), Ok(Duration::ZERO));
    }

    #[test]
    fn day_is_its_beginning() {
        let at = |text| date(text).map(|time| humantime::format_rfc3339_seconds(time).to_string());
        assert_eq!(at("2027-06-30").unwrap(), "2027-06-30T00:00:00Z");
        assert_eq!(at(" 2027-06-30T12:00:00Z\n").unwrap(), "2027-06-30T12:00:00Z");
        for wrong in ["", "2027", "2027-13-01", "30.6.2027", "2027-06-30T12:00:00+02:00"] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn shown_url_has_no_password_and_no_token() {
        for (url, shown) in [
            ("https://a.example:8443/b/jwks.json", "https://a.example:8443/b/jwks.json"),
            ("https://a.example/jwks?token=secret#secret", "https://a.example/jwks"),
            ("https://ann:secret@a.example/jwks", "…"),
            ("https://ann:12?secret@a.example/jwks", "…"),
            ("a.example/secret", "…"),
            ("https://a b/secret", "…"),
        ] {
            assert_eq!(url_without_secrets(url), shown);
        }
    }

    #[test]
    fn factor_is_a_finite_number() {
        assert_eq!(factor(" 1.5"), Ok(1.5));
        for wrong in ["0", "-1", "NaN", "inf", "1e9", "1,5", "2x", ""] {
            assert!(factor(wrong).unwrap_err().starts_with("expected a number"), "{wrong}");
        }
    }

    #[test]
    fn numbers_have_bounds_and_no_units() {
        let read = number(2..=300_u16);
        for (text, number) in [("2", 2), (" 300\r", 300)] {
            assert_eq!(read(text), Ok(number), "{text}");
        }
        for (wrong, why) in [
            ("1", "at least 2"),
            ("301", "at most 300"),
            ("99999999999999999999", "at most 300"),
            ("-3", "expected a whole number without a unit"),
            ("3K", "expected a whole number without a unit"),
            ("+3", "expected a whole number without a unit"),
            ("", "expected a whole number without a unit"),
        ] {
            assert_eq!(read(wrong), Err(why.to_owned()), "{wrong}");
        }
    }
}
