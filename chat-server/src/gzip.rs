//! Compressed answers: the compression, and which clients want it.

use std::io::Write;

use axum::http::HeaderMap;
use axum::http::header::ACCEPT_ENCODING;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::header_list::{elements, parameters};

/// The content in gzip, by the slowest and best level: for contents that are kept.
pub(crate) fn compress(content: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // Cannot fail: a vector takes everything.
    let _ = encoder.write_all(content);
    encoder.finish().unwrap_or_default().into()
}

/// Whether the client prefers gzip to a plain answer (RFC 9110, section 12.5.3).
pub(crate) fn is_preferred(headers: &HeaderMap) -> bool {
    let gzip = quality(headers, "gzip").or_else(|| quality(headers, "*")).unwrap_or(0.0);
    gzip > 0.0 && gzip >= quality(headers, "identity").unwrap_or(0.0)
}

/// The weight of a coding; `None` if the client does not name it.
fn quality(headers: &HeaderMap, coding: &str) -> Option<f32> {
    let lines = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(elements).find_map(|element| {
        let (name, rest) = element.split_once(';').unwrap_or((element, ""));
        name.trim_end().eq_ignore_ascii_case(coding).then(|| weight(rest))
    })
}

/// The value of `q`, which is 1 if it is absent. One that cannot be read counts as a refusal.
fn weight(rest: &str) -> f32 {
    let Some(parameters) = parameters(rest) else { return 0.0 };
    let given = parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case("q"));
    given.map_or(1.0, |(_, weight)| weight.parse().unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_clients_that_prefer_it() {
        for (lines, expected) in [
            (&[][..], false),
            (&["gzip"], true),
            (&["GZIP"], true),
            (&["br, gzip, deflate"], true),
            (&["br", "gzip;q=0.5"], true),
            (&["gzip ; Q=1.0"], true),
            (&["*"], true),
            (&["br"], false),
            (&[""], false),
            (&["gzip;q=0"], false),
            (&["gzip;q=0, *"], false),
            (&["*;q=0"], false),
            (&["gzip;q=much"], false),
            (&["gzip;q=0.5, identity;q=0.8"], false),
            (&["gzip;q=0.8, identity;q=0.8"], true),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(ACCEPT_ENCODING, line.parse().unwrap());
            }
            assert_eq!(is_preferred(&headers), expected, "{lines:?}");
        }
    }
}
