//! `chat-server key`: a key for a backend.

use chat_server::{ApiKey, Secret};
use clap::Args;

use super::api::Rights;
use super::value::{Invalid, text};

/// What the key is to be.
#[derive(Debug, Args)]
pub(super) struct KeyArgs {
    /// Name of the key in the log, in metrics and as sender: letters, digits and dashes
    #[arg(long, value_parser = text)]
    name: String,

    #[command(flatten)]
    rights: Rights,
}

/// A key that was made.
pub(crate) struct NewKey {
    /// For the backend.
    pub(super) secret: Secret,
    /// For the configuration file.
    pub(super) table: String,
}

impl KeyArgs {
    pub(super) fn key(&self) -> Result<NewKey, Invalid> {
        let (key, secret) = ApiKey::generate(&self.name)
            .map_err(|error| Invalid::new("name", &self.name, error.to_string()))?;
        let table = format!("[[api_keys]]\n{}", self.rights.lines(&key).join("\n"));
        Ok(NewKey { secret, table })
    }
}
