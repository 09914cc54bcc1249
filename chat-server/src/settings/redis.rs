//! How the program connects to Redis.

use std::path::PathBuf;

/// Files with certificates, for `rediss://`.
#[derive(Debug, Default)]
#[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "of use to Redis alone"))]
pub(super) struct RedisTls {
    pub(super) authority: Option<PathBuf>,
    pub(super) certificate: Option<PathBuf>,
    pub(super) key: Option<PathBuf>,
}

#[cfg(feature = "redis")]
mod config {
    use std::path::Path;

    use chat_broker::RedisConfig;

    use super::super::Settings;
    use super::RedisTls;

    impl Settings {
        /// The settings for the Redis at `url`.
        ///
        /// # Errors
        /// A file cannot be read, or one that belongs to another is missing.
        pub(crate) fn redis(&self, url: &str) -> Result<RedisConfig, String> {
            let config = RedisConfig::new(url)
                .prefix(&self.redis_prefix)
                .lease(self.presence_lease)
                .grace(self.server().hub.grace);
            self.redis_tls.add_to(config)
        }
    }

    impl RedisTls {
        fn add_to(&self, mut config: RedisConfig) -> Result<RedisConfig, String> {
            if let Some(path) = &self.authority {
                config = config.ca_certificate(read("redis-ca", path)?);
            }
            match (&self.certificate, &self.key) {
                (Some(certificate), Some(key)) => {
                    let certificate = read("redis-cert", certificate)?;
                    Ok(config.client_certificate(certificate, read("redis-key", key)?))
                }
                (None, None) => Ok(config),
                (Some(_), None) => Err("redis-cert needs redis-key".to_owned()),
                (None, Some(_)) => Err("redis-key needs redis-cert".to_owned()),
            }
        }
    }

    fn read(setting: &str, path: &Path) -> Result<Vec<u8>, String> {
        std::fs::read(path).map_err(|error| {
            format!("invalid value for {setting}: cannot read {}: {error}", path.display())
        })
    }
}
