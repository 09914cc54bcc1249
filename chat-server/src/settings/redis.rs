//! Settings of Redis.

use std::path::PathBuf;
use std::time::Duration;

use chat_server::Secret;
use clap::Args;

use super::value::{HOUR, SECOND, redis_prefix, secret, time, trim};

#[derive(Debug, Args)]
#[command(next_help_heading = "Redis")]
#[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "of use to Redis alone"))]
pub(crate) struct Redis {
    /// Redis that keeps servers in sync: redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], rediss:// for
    /// TLS, or unix:///PATH for a socket. Redis 6 or later, or Valkey [default: none; rooms live in
    /// this process alone]
    #[arg(long, value_name = "URL", hide_env_values = true, value_parser = secret)]
    redis_url: Option<Secret>,

    /// File with the certificates of the authorities that sign the certificate of Redis, in PEM,
    /// for rediss:// [default: those of the operating system, or of the file in SSL_CERT_FILE]
    #[arg(long, value_name = "FILE")]
    redis_ca: Option<PathBuf>,

    /// File with the certificate that this server shows to Redis (tls-auth-clients), in PEM,
    /// followed by those that lead to an authority which Redis trusts; with --redis-key
    /// [default: none]
    #[arg(long, value_name = "FILE")]
    redis_cert: Option<PathBuf>,

    /// File with the private key of --redis-cert, in PEM, without a password [default: none]
    #[arg(long, value_name = "FILE")]
    redis_key: Option<PathBuf>,

    /// First part of the names of Redis keys and channels; servers that share it share rooms
    #[arg(long, value_name = "TEXT", default_value = "chat", value_parser = redis_prefix)]
    redis_prefix: String,

    /// How long a server that does not renew its lease counts as alive; its users leave at most
    /// 5 s later
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time(SECOND..=HOUR))]
    presence_lease: Duration,
}

impl Redis {
    pub(crate) fn url(&self) -> Option<&str> {
        self.redis_url.as_ref().map(|url| trim(url.reveal())).filter(|url| !url.is_empty())
    }

    /// What the rooms live in: the address of Redis, or memory.
    pub(crate) fn engine(&self) -> String {
        #[cfg(feature = "redis")]
        if let Some(url) = self.url() {
            return chat_broker::RedisConfig::new(url).address();
        }
        "memory".to_owned()
    }

    /// What should be equal on all servers. Their URLs may differ, as names of one Redis.
    pub(super) fn shared(&self) -> String {
        let has_redis = self.url().is_some();
        format!("redis={has_redis} {} {:?}", self.prefix(), self.presence_lease)
    }

    fn prefix(&self) -> &str {
        if self.redis_prefix.is_empty() { "chat" } else { &self.redis_prefix }
    }
}

#[cfg(feature = "redis")]
mod config {
    use std::path::Path;
    use std::time::Duration;

    use chat_broker::{BrokerError, RedisConfig};

    use super::super::files;
    use super::super::value::{EXAMPLE, Invalid};
    use super::Redis;

    /// The passwords of the documentation, in a URL.
    const EXAMPLES: [&str; 2] = [":PASSWORD@", ":ANOTHER-PASSWORD@"];

    impl Redis {
        /// The settings for the Redis at `url`, with the grace of the hub. They are checked one by
        /// one, so that an error names the one that is wrong.
        ///
        /// # Errors
        /// One cannot be used, or its file cannot be read.
        pub(crate) fn config(&self, url: &str, grace: Duration) -> Result<RedisConfig, Invalid> {
            let config = self.without_certificates(url)?;
            self.with_certificates(config.grace(grace))
        }

        /// # Errors
        /// The URL cannot be used, whatever is in files and on the network.
        pub(crate) fn check_url(&self) -> Result<(), Invalid> {
            self.url().map_or(Ok(()), |url| self.without_certificates(url).map(drop))
        }

        fn without_certificates(&self, url: &str) -> Result<RedisConfig, Invalid> {
            let config = RedisConfig::new(url).prefix(self.prefix()).lease(self.presence_lease);
            config.check().map_err(|error| {
                let why = format!("such as redis://USER:PASSWORD@HOST:6379/0: {}", cause(&error));
                Invalid::hidden("redis-url", why)
            })?;
            if EXAMPLES.iter().any(|password| url.contains(password)) {
                return Err(Invalid::hidden("redis-url", format!("its password is {EXAMPLE}")));
            }
            Ok(config)
        }

        fn with_certificates(&self, mut config: RedisConfig) -> Result<RedisConfig, Invalid> {
            if let Some(path) = &self.redis_ca {
                config = config.ca_certificate(read("redis-ca", path)?);
                config.check().map_err(|error| invalid("redis-ca", path, &cause(&error)))?;
            }
            match (&self.redis_cert, &self.redis_key) {
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
        files::read(path)
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
