//! `chat-server key`: a key for a backend.

use chat_server::ApiKey;
use clap::Args;

use super::api::Rights;
use super::exit::Exit;
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

impl KeyArgs {
    /// The secret on the first line, and below it the table for the configuration file.
    pub(super) fn key(&self) -> Result<String, Exit> {
        let (key, secret) = ApiKey::generate(&self.name)
            .map_err(|error| Invalid::new("name", &self.name, error.to_string()))?;
        let table = self.rights.lines(&key);
        Ok(format!("{}\n\n[[api_keys]]\n{}", secret.reveal(), table.join("\n")))
    }
}
