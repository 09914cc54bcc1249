//! Why the program does not start, as it says so.

use std::process::ExitCode;

use clap::error::ErrorKind;

/// Why the program does not start.
#[derive(Debug)]
pub(crate) enum Exit {
    /// A flag or a variable; or a wish for help.
    Usage(clap::Error),
    /// The configuration file.
    File(String),
    /// A value out of its range.
    Value(String),
}

impl Exit {
    /// Says so: help in full, anything else in one line.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Self::Usage(error)
                if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) =>
            {
                let _ = error.print();
                ExitCode::SUCCESS
            }
            Self::Usage(error) => {
                // The first part, without usage and hints.
                let text = error.to_string();
                let part = text.lines().take_while(|line| !line.trim().is_empty());
                let line = part.map(str::trim).collect::<Vec<_>>().join(" ");
                complain(line.trim_start_matches("error: "))
            }
            Self::File(error) | Self::Value(error) => complain(&error),
        }
    }
}

/// One line on stdout, and success.
#[allow(clippy::print_stdout, reason = "what the program was asked for")]
pub(crate) fn print(text: &str) -> ExitCode {
    println!("{text}");
    ExitCode::SUCCESS
}

/// One line on stderr, and the exit code for bad settings.
pub(crate) fn complain(error: &str) -> ExitCode {
    eprintln!("chat-server: {error}");
    ExitCode::from(2)
}
