//! Commands that print what is made from the declarations of the settings.

use clap::{CommandFactory, Subcommand};
use clap_complete::Shell;

use super::config_file::config_file;
use super::exit::Exit;
use super::{Cli, Sources};

#[derive(Debug, Subcommand)]
pub(super) enum TextCommand {
    /// Prints a configuration file with every setting at its default
    Config,
    /// Prints what completes the command line of a shell
    Completions { shell: Shell },
    /// Prints the page for man
    Man,
}

impl TextCommand {
    pub(super) fn print(self) -> Result<String, Exit> {
        let mut text = Vec::new();
        match self {
            Self::Config => return Ok(config_file()),
            Self::Completions { shell } => {
                clap_complete::generate(shell, &mut Cli::command(), "chat-server", &mut text);
            }
            Self::Man => {
                let command = Sources::default().with_variables(Cli::command());
                let written = clap_mangen::Man::new(command).render(&mut text);
                written.map_err(|error| Exit::System(format!("cannot write the page: {error}")))?;
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
