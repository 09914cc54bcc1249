//! SIGHUP: reads the settings again, and replaces what can be replaced while the server runs.

use chat_server::{InvalidConfig, Server, ServerConfig};
use tokio::signal::unix::Signal;
use tracing::{error, info, warn};

use crate::engine::Engine;
use crate::log::SetFilter;
use crate::settings::{Exit, Settings, Sources};
use crate::tokens::TokenAuth;
use crate::{log_warnings, open_files};

/// The settings that [`Reload::apply`] replaces, beside all limits. Others need a restart.
const REPLACED: [&str; 22] = [
    "allow-host",
    "allow-origin",
    "api-key",
    "api_keys",
    "forwarded-header",
    "jwt-audience",
    "jwt-issuer",
    "jwt-jwks-ca",
    "jwt-jwks-file",
    "jwt-jwks-url",
    "jwt-public-key",
    "jwt-secret",
    "jwt-secret-file",
    "jwt_keys",
    "log",
    "max-json-depth",
    "max-name-bytes",
    "redis-ca",
    "redis-cert",
    "redis-key",
    "token-leeway",
    "trusted-proxies",
];

/// What a running server can be given new settings with.
pub(crate) struct Reload {
    pub(crate) server: Server,
    pub(crate) engine: Engine,
    pub(crate) tokens: Option<TokenAuth>,
    pub(crate) set_log_filter: SetFilter,
    /// The settings of the start, which count wherever a restart is needed.
    pub(crate) started: Settings,
}

impl Reload {
    /// Reads the settings again at each signal. Signals that arrive during a reload cause one more.
    pub(crate) async fn on_each(mut self, mut hangup: Signal) {
        while hangup.recv().await.is_some() {
            let mut sources = Sources::of_process();
            match self.reload(&mut sources).await {
                Ok(()) => {
                    let digest = self.server.settings_digest();
                    info!(settings = digest, "SIGHUP: settings reloaded");
                }
                Err(exit) => {
                    self.server.reload_failed();
                    let why = exit.message(&sources);
                    error!("SIGHUP: settings not reloaded, all stay as they were: {why}");
                }
            }
        }
    }

    async fn reload(&mut self, sources: &mut Sources) -> Result<(), Exit> {
        let settings = Settings::load(sources)?;
        let mut config = settings.server()?;
        config.shared_settings = settings.shared_settings(&self.started.redis)?;
        let config = open_files::bound(config, settings.limits.connections_by_system());
        self.apply(&settings, &config).await?;
        log_warnings(sources, &settings.doubts(&config)?);
        let changed = self.started.changed(&settings);
        let is_replaced = |name: &&str| REPLACED.contains(name) || Settings::is_limit(name);
        let lasting: Vec<_> = changed.filter(|name| !is_replaced(name)).collect();
        if !lasting.is_empty() {
            warn!("SIGHUP: changed settings that need a restart: {}", lasting.join(", "));
        }
        Ok(())
    }

    /// What can fail is first, and then nothing is replaced: certificates are read, and keys of tokens
    /// replaced. What is in `config` has been checked.
    async fn apply(&mut self, settings: &Settings, config: &ServerConfig) -> Result<(), Exit> {
        let certificates = self.engine.read_certificates(&settings.redis)?;
        TokenAuth::reload(self.tokens.as_mut(), &settings.tokens, &self.server).await?;
        let invalid = |error: InvalidConfig| Exit::System(error.to_string());
        self.server.reload(config).map_err(invalid)?;
        self.engine.replace_certificates(&certificates)?;
        (self.set_log_filter)(&settings.log);
        Ok(())
    }
}
