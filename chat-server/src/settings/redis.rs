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

    use chat_broker::{BrokerError, RedisConfig};

    use super::super::Settings;
    use super::super::sources::Invalid;
    use super::RedisTls;

    impl Settings {
        /// The settings for the Redis at `url`. They are checked one by one, so that an error names
        /// the one that is wrong.
        ///
        /// # Errors
        /// One cannot be used, or its file cannot be read.
        pub(crate) fn redis(&self, url: &str) -> Result<RedisConfig, Invalid> {
            let config = RedisConfig::new(url)
                .prefix(&self.redis_prefix)
                .lease(self.presence_lease)
                .grace(self.server().hub.grace);
            config.check().map_err(|error| {
                let why = format!("such as redis://USER:PASSWORD@HOST:6379/0: {}", cause(&error));
                Invalid::hidden("redis-url", why)
            })?;
            self.redis_tls.add_to(config)
        }
    }

    impl RedisTls {
        fn add_to(&self, mut config: RedisConfig) -> Result<RedisConfig, Invalid> {
            if let Some(path) = &self.authority {
                config = config.ca_certificate(read("redis-ca", path)?);
                config.check().map_err(|error| invalid("redis-ca", path, &cause(&error)))?;
            }
            match (&self.certificate, &self.key) {
                (None, None) => {}
                (Some(path), None) => {
                    return Err(invalid("redis-cert", path, "it needs redis-key"));
                }
                (None, Some(path)) => {
                    return Err(invalid("redis-key", path, "it needs redis-cert"));
                }
                (Some(path), Some(key)) => {
                    let certificate = read("redis-cert", path)?;
                    config = config.client_certificate(certificate, read("redis-key", key)?);
                    config.check().map_err(|error| {
                        // Either of the two files may be the wrong one.
                        let why = format!("{} (redis-key is '{}')", cause(&error), key.display());
                        invalid("redis-cert", path, &why)
                    })?;
                }
            }
            Ok(config)
        }
    }

    fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, Invalid> {
        std::fs::read(path)
            .map_err(|error| invalid(setting, path, &format!("cannot read it: {error}")))
    }

    /// Without a word on whose settings they are.
    fn cause(error: &BrokerError) -> String {
        match error {
            BrokerError::Config(cause) => cause.to_string(),
            error => error.to_string(),
        }
    }

    fn invalid(setting: &'static str, path: &Path, why: &str) -> Invalid {
        Invalid::new(setting, path.display(), why)
    }
}
