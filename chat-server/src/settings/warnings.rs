//! Settings that a server in production should not have, and those that do not do what they say.

use chat_server::{IpNet, ServerConfig};

use super::Settings;
use super::value::Invalid;

/// The fewest characters of 128 random bits, in base64.
const UNGUESSABLE: usize = 22;

impl Settings {
    /// A line for each setting that fits a trial and not production, and for each that has no effect.
    /// `server` is the configuration by these settings.
    pub(crate) fn warnings(&self, server: &ServerConfig) -> Result<Vec<String>, Invalid> {
        let mut warnings = self.of_a_trial(server)?;
        warnings.extend(self.contradictions(server));
        warnings.extend(self.log.unknown_modules());
        Ok(warnings)
    }

    fn of_a_trial(&self, server: &ServerConfig) -> Result<Vec<String>, Invalid> {
        let names_no_clients = !self.tokens.are_needed()?;
        let short_key = server.api_key.as_ref().is_some_and(|key| {
            // Others come from `chat-server key`.
            key.reveal().chars().count() < UNGUESSABLE
        });
        let warnings = [
            (
                names_no_clients,
                "no jwt-secret and no other key of tokens: every client has access under any name",
            ),
            (
                self.tokens.has_ended_key(),
                "a key of [[jwt_keys]] has ended: tokens that it signs are refused, so remove its table",
            ),
            (
                self.api.has_ended_key(),
                "a key of [[api_keys]] has ended: calls with it are refused, so remove its table",
            ),
            (
                !self.limits.enabled,
                "limits are off: rates and counts are not limited, whatever else is set",
            ),
            (
                server.serve_metrics && self.listen.is_public(),
                "no metrics-addr: clients can read /metrics, unless a proxy in front keeps them from it",
            ),
            (
                server.allow_host.iter().any(|host| host == "*"),
                "allow-host is *: a page under any name may use this server, unless a proxy in front \
                 checks the host",
            ),
            (
                server.allow_origin.iter().any(|origin| origin == "null"),
                "allow-origin has null: any page in a sandboxed frame may use this server",
            ),
            (
                server.trusted_proxies.iter().any(is_wide),
                "trusted-proxies has a network wider than /8: a client in it can make up its address",
            ),
            (
                short_key,
                "api-key has less than 22 characters and might be guessed: chat-server key makes one",
            ),
        ];
        let found = warnings.into_iter().filter(|(is_so, _)| *is_so);
        Ok(found.map(|(_, warning)| warning.to_owned()).collect())
    }
}

/// Whether a network has addresses of the internet beside those of proxies. Two halves are as wide as
/// all, so the bound is that of the widest private network; of IPv6, that is `fc00::/7`.
fn is_wide(network: &IpNet) -> bool {
    match network {
        IpNet::V4(network) => network.prefix_len() < 8,
        IpNet::V6(network) => network.prefix_len() < 8 && !network.addr().is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_for_a_trial_has_a_line() {
        let warnings = |file: &str| {
            let settings = Settings::of_file(file, &[]).unwrap();
            let warnings = settings.warnings(&settings.server().unwrap()).unwrap();
            let titles =
                warnings.iter().map(|warning| warning.split(':').next().unwrap().to_owned());
            titles.collect::<Vec<_>>()
        };
        let open = "no jwt-secret and no other key of tokens";
        assert_eq!(warnings(""), [open]);
        let secret = "jwt-secret = \"0123456789abcdef0123456789abcdef\"\n";
        assert_eq!(warnings(secret), [""; 0]);
        let ended = "[[jwt_keys]]\nsecret-file = \"a\"\nuntil = \"2020-01-01\"";
        assert_eq!(warnings(ended), ["a key of [[jwt_keys]] has ended"]);
        let key = |until: &str| {
            let hash = format!("sha256:{:064}", 1);
            format!(
                "{secret}[[api_keys]]\nname = \"zoe\"\nhash = \"{hash}\"\nscopes = [\"read\"]\nuntil = \"{until}\""
            )
        };
        assert_eq!(warnings(&key("2020-01-01")), ["a key of [[api_keys]] has ended"]);
        assert_eq!(warnings(&key("9999-01-01")), [""; 0]);
        let wide = "trusted-proxies has a network wider than /8";
        for (setting, warning) in [
            ("limits = \"off\"", "limits are off"),
            ("host = \"0.0.0.0\"", "no metrics-addr"),
            ("host = \"chat.example\"", "no metrics-addr"),
            ("allow-host = \"*\"", "allow-host is *"),
            ("allow-origin = [\"null\"]", "allow-origin has null"),
            ("trusted-proxies = [\"10.0.0.0/8\", \"::/0\"]", wide),
            ("trusted-proxies = [\"0.0.0.0/1\", \"128.0.0.0/1\"]", wide),
            (
                "api-key = \"0123456789abcdefghijk\"",
                "api-key has less than 22 characters and might be guessed",
            ),
        ] {
            assert_eq!(warnings(&format!("{secret}{setting}")), [warning], "{setting}");
        }
        for fine in [
            "host = \"::1\"",
            "host = \"localhost\"",
            "host = \"0.0.0.0\"\nmetrics-addr = \"127.0.0.1:9100\"",
            "allow-host = \".chat.example\"",
            "trusted-proxies = [\"10.0.0.0/8\", \"fc00::/7\"]",
            "api-key = \"0123456789abcdefghijkl\"",
        ] {
            assert_eq!(warnings(&format!("{secret}{fine}")), [""; 0], "{fine}");
        }
    }
}
