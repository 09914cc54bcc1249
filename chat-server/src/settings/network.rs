//! Networks, as settings give them.

use std::net::IpAddr;

use chat_server::IpNet;

/// Reads a network such as `10.0.0.0/8`, or an address.
pub(super) fn parse_network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>()
        .or_else(|_| address())
        .map_err(|_| format!("'{text}' is neither an address nor a network such as 10.0.0.0/8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_networks_are_parsed() {
        assert!(parse_network("10.0.0.0/8").is_ok() && parse_network(" ::1 ").is_ok());
        for wrong in ["", "10.0.0.0/33", "host", "10.0.0"] {
            assert!(parse_network(wrong).is_err(), "{wrong}");
        }
    }
}
