//! Lists in headers, of which a client may have made any part.

#[path = "../../chat-server/src/header_list.rs"]
#[allow(dead_code, unused_imports, reason = "its tests are elsewhere")]
mod header_list;

use header_list::{elements, parameters};

/// A line of `Forwarded`: no element is lost, and what a proxy quotes is one value of one element.
pub fn forwarded(input: &[u8]) {
    let Ok(line) = std::str::from_utf8(input) else { return };
    let without_space = |text: &str| text.replace([' ', '\t'], "");
    let joined = elements(line).collect::<Vec<_>>().join(",");
    assert_eq!(without_space(&joined), without_space(line));
    for element in elements(line) {
        let _ = parameters(element);
    }
    let quoted = line.replace('\\', r"\\").replace('"', "\\\"");
    let noted = format!("for=192.0.2.60;host=\"{quoted}\"");
    let both: Vec<_> = elements(&noted).filter_map(parameters).collect();
    let [one] = &both[..] else { panic!("{} elements of {noted}", both.len()) };
    let values: Vec<_> = one.iter().map(|(name, value)| (*name, &**value)).collect();
    assert_eq!(values, [("for", "192.0.2.60"), ("host", line)]);
}
