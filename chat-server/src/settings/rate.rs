//! Rates, as settings give them.

use std::str::FromStr;

use chat_server::{InvalidRate, Rate};
use serde::Deserialize;

use super::sources::trim;

/// A rate such as `50/100`, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit(pub(super) Option<Rate>);

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = trim(text);
        if text == "off" {
            return Ok(Self(None));
        }
        text.parse().map(|rate| Self(Some(rate))).map_err(|error: InvalidRate| error.to_string())
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "expected a rate such as \"50/100\", or \"off\", in quotes";
        let text = String::deserialize(deserializer);
        text.map_err(|_| serde::de::Error::custom(expected))?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}
