//! SIGHUP: reads the settings again, and replaces what can be replaced while the server runs.

use chat_server::{InvalidConfig, Server, ServerConfig};
use tokio::signal::unix::Signal;
use tracing::{error, info, warn};

use crate::log::SetFilter;
use crate::settings::{Exit, Settings, Sources};
use crate::tokens::TokenAuth;

/// The settings that [`Reload::apply`] replaces. Others need a restart.
const REPLACED: [&str; 14] = [
    "allow-host",
    "allow-origin",
    "api-key",
    "api_keys",
    "jwt-audience",
    "jwt-issuer",
    "jwt-jwks-ca",
    "jwt-jwks-file",
    "jwt-jwks-url",
    "jwt-public-key",
    "jwt-secret",
    "jwt-secret-file",
    "log",
    "token-leeway",
];

/// What a running server can be given new settings with.
pub(crate) struct Reload {
    pub(crate) server: Server,
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
                Ok(()) => info!("SIGHUP: settings reloaded"),
                Err(exit) => {
                    let why = exit.message(&sources);
                    error!("SIGHUP: settings not reloaded, all stay as they were: {why}");
                }
            }
        }
    }

    async fn reload(&mut self, sources: &mut Sources) -> Result<(), Exit> {
        let settings = Settings::load(sources)?;
        let config = settings.server()?;
        self.apply(&settings, &config).await?;
        for warning in sources.warnings() {
            warn!("{warning}");
        }
        let changed = self.started.changed(&settings);
        let lasting: Vec<_> = changed.filter(|name| !REPLACED.contains(name)).collect();
        if !lasting.is_empty() {
            warn!("SIGHUP: changed settings that need a restart: {}", lasting.join(", "));
        }
        Ok(())
    }

    /// Replaces the keys of tokens first: they alone can fail, and then nothing is replaced. What is
    /// in `config` has been checked.
    async fn apply(&mut self, settings: &Settings, config: &ServerConfig) -> Result<(), Exit> {
        TokenAuth::reload(self.tokens.as_mut(), &settings.tokens, &self.server).await?;
        let invalid = |error: InvalidConfig| Exit::System(error.to_string());
        self.server.set_allowed_hosts(&config.allow_host).map_err(invalid)?;
        self.server.set_allowed_origins(&config.allow_origin).map_err(invalid)?;
        self.server.set_api_keys(config.all_api_keys());
        (self.set_log_filter)(&settings.log);
        Ok(())
    }
}
