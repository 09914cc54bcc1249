//! SIGHUP: reads the settings again, and replaces what can be replaced while the server runs.

use std::io;
use std::thread;
use std::time::Duration;

use chat_server::{InvalidConfig, Server, ServerConfig};
use tokio::runtime::Handle;
use tokio::signal::unix::Signal;
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::engine::Engine;
use crate::log::SetFilter;
use crate::settings::{Exit, Settings, Sources, Values};
use crate::tokens::TokenAuth;
use crate::{log_warnings, notify, open_files};

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

/// How long a reload may take before the log says so: a file may be on a disk that does not answer.
const SLOW: Duration = Duration::from_secs(10);

/// What a running server can be given new settings with.
pub(crate) struct Reload {
    pub(crate) server: Server,
    pub(crate) engine: Engine,
    pub(crate) tokens: Option<TokenAuth>,
    pub(crate) set_log_filter: SetFilter,
    /// The settings of the start, which count wherever a restart is needed.
    pub(crate) started: Settings,
    /// What distinguishes those of the latest reload.
    pub(crate) latest: Option<Values>,
}

impl Reload {
    /// Reads the settings again at each signal. Signals that arrive during a reload cause one more.
    ///
    /// On a thread of its own, since reads of files block: on a thread of the runtime, all clients of it
    /// would wait for the disk. Nor does the runtime wait for that thread when it ends.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(self, hangup: Signal) -> io::Result<()> {
        let runtime = Handle::current();
        let reloads = move || runtime.block_on(self.on_each(hangup));
        thread::Builder::new().name("reload".to_owned()).spawn(reloads).map(drop)
    }

    async fn on_each(mut self, mut hangup: Signal) {
        while hangup.recv().await.is_some() {
            let slow = tokio::spawn(async {
                sleep(SLOW).await;
                error!("SIGHUP: settings not reloaded after {SLOW:?}: a file is still being read");
            });
            notify::reloading();
            let mut sources = Sources::of_process();
            let outcome = self.reload(&mut sources).await;
            slow.abort();
            match outcome {
                Ok(changed) => {
                    let digest = self.server.settings_digest();
                    info!(changed, settings = digest, "SIGHUP: settings reloaded");
                    notify::reloaded(None, &self.server);
                }
                Err(exit) => {
                    self.server.reload_failed();
                    let why = exit.message(&sources);
                    error!("SIGHUP: settings not reloaded, all stay as they were: {why}");
                    notify::reloaded(Some(&why), &self.server);
                }
            }
        }
    }

    /// The names of the settings that have changed, in themselves or in their files.
    async fn reload(&mut self, sources: &mut Sources) -> Result<String, Exit> {
        let settings = Settings::load(sources)?;
        let mut config = settings.server()?;
        config.shared_settings = settings.shared_settings(&self.started.redis)?;
        let config = open_files::bound(config, settings.limits.connections_by_system());
        self.apply(&settings, &config).await?;
        log_warnings(sources, &settings, &config)?;
        let changed = self.started.values.changed(&settings.values);
        let is_replaced = |name: &&str| REPLACED.contains(name) || Settings::is_limit(name);
        let lasting: Vec<_> = changed.filter(|name| !is_replaced(name)).collect();
        self.server.set_needs_restart(!lasting.is_empty());
        if !lasting.is_empty() {
            warn!("SIGHUP: changed settings that need a restart: {}", lasting.join(", "));
        }
        let before = self.latest.as_ref().unwrap_or(&self.started.values);
        let changed = before.changed(&settings.values).collect::<Vec<_>>().join(", ");
        self.latest = Some(settings.values);
        Ok(if changed.is_empty() { "none".to_owned() } else { changed })
    }

    /// Everything that can fail is read and checked first, and replaced then.
    async fn apply(&mut self, settings: &Settings, config: &ServerConfig) -> Result<(), Exit> {
        let invalid = |error: InvalidConfig| Exit::System(error.to_string());
        config.check().map_err(invalid)?;
        let certificates = self.engine.read_certificates(&settings.redis)?;
        let tokens = TokenAuth::read_again(self.tokens.as_ref(), &settings.tokens).await?;
        // Read certificates are valid, and the settings are checked: neither of the two fails.
        self.engine.replace_certificates(&certificates)?;
        self.server.reload(config).map_err(invalid)?;
        if let (Some(running), Some(read)) = (&mut self.tokens, tokens) {
            running.replace(read, &self.server);
        }
        (self.set_log_filter)(&settings.log);
        Ok(())
    }
}
