//! The digest by which operators see that servers have different settings.

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};

use super::ServerConfig;

impl ServerConfig {
    /// A digest of the settings that should be equal on all servers of one broker, as 16 hexadecimal
    /// digits: servers of one version whose digests differ have different settings. What may differ by
    /// the machine takes no part: [`serve_metrics`](Self::serve_metrics), [`serve_api`](Self::serve_api),
    /// the times of a shutdown, the numbers of connections to the server, and the number of workers.
    ///
    /// Nor does [`api_key`](Self::api_key): a secret that is weak could be guessed from a digest that has
    /// it. The hashes of [`api_keys`](Self::api_keys) do.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use chat_server::ServerConfig;
    ///
    /// let digest = ServerConfig::default().digest();
    /// assert_eq!(ServerConfig::default().drain_timeout(Duration::from_secs(20)).digest(), digest);
    /// assert_ne!(ServerConfig::default().max_message_bytes(4_096).digest(), digest);
    /// ```
    #[must_use]
    pub fn digest(&self) -> String {
        /// Of the 32 bytes of SHA-256: these tell settings apart that differ by mistake.
        const BYTES: usize = 8;
        let own = Self::default();
        let mut shared = self.clone();
        shared.serve_metrics = own.serve_metrics;
        shared.serve_api = own.serve_api;
        shared.drain_timeout = own.drain_timeout;
        shared.drain_spread = own.drain_spread;
        shared.limits.connections = own.limits.connections;
        shared.limits.http_connections = own.limits.http_connections;
        shared.hub.workers = own.hub.workers;
        shared.api_key = own.api_key;
        let digest = digest(&SHA256, format!("{shared:?}").as_bytes());
        HEXLOWER.encode(&digest.as_ref()[..BYTES])
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chat_broker::HubConfig;

    use super::*;
    use crate::api::keys::ApiKey;
    use crate::secret::Secret;

    #[test]
    fn digest_differs_by_what_servers_share() {
        let config = ServerConfig::default;
        let limits = config().limits;
        for of_machine in [
            config().serve_metrics(false),
            config().api_key(Some(Secret::new("0123456789abcdef"))),
            config().limits(limits.clone().connections(Some(7)).http_connections(None)),
            config().hub(HubConfig::default().workers(7)),
        ] {
            assert_eq!(of_machine.digest(), config().digest());
        }
        for shared in [
            config().limits(limits.rooms(Some(7))),
            config().hub(HubConfig::default().grace(Duration::ZERO)),
            config().allow_host(vec!["chat.example".to_owned()]),
            config().api_keys(vec![ApiKey::generate("shop").unwrap().0]),
            config().shared_settings("prefix=test".to_owned()),
        ] {
            assert_ne!(shared.digest(), config().digest());
        }
    }
}
