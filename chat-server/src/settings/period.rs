//! Times, as settings give them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

use super::sources::trim;

/// A time such as `500ms`, `10s`, `5m` or `24h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Period(pub(super) Duration);

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = trim(text);
        let digits = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
        let number: u64 = digits.parse().map_err(|_| expected())?;
        let millis = match &text[digits.len()..] {
            "ms" => Some(number),
            "s" => number.checked_mul(1000),
            "m" => number.checked_mul(60_000),
            "h" => number.checked_mul(3_600_000),
            _ => None,
        };
        // A year and no more: sums with the present must not overflow.
        let millis = millis.filter(|millis| *millis <= 365 * 24 * 3_600_000);
        millis.map(|millis| Self(Duration::from_millis(millis))).ok_or_else(expected)
    }
}

fn expected() -> String {
    "expected a time such as 500ms, 10s, 5m or 24h, a year at most".to_owned()
}

/// In the largest unit of which it is a multiple.
impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let units = [(3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")];
        let unit = units.into_iter().find(|(unit, _)| millis > 0 && millis.is_multiple_of(*unit));
        let (unit, name) = unit.unwrap_or((1000, "s"));
        write!(f, "{}{name}", millis / unit)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer);
        let text = text.map_err(|_| serde::de::Error::custom(format!("{}, in quotes", expected())));
        text?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods() {
        let parse = |text: &str| text.parse::<Period>().map(|period| period.0.as_millis());
        assert_eq!(parse("500ms"), Ok(500));
        assert_eq!(parse("10s"), Ok(10_000));
        assert_eq!(parse("5m"), Ok(300_000));
        assert_eq!(parse("24h"), Ok(86_400_000));
        for shown in ["500ms", "10s", "5m", "24h", "90m", "1500ms", "0s"] {
            assert_eq!(shown.parse::<Period>().unwrap().to_string(), shown);
        }
        assert_eq!(parse(" 10s\r\n"), Ok(10_000));
        for wrong in
            ["", "10", "s", "-1s", "1.5s", "10 s", "1d", "99999999999999999999s", "9999999h"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
