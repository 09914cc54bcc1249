//! Why the program does not start, or does not read its settings again, as it says so.

use std::io::{self, Write};
use std::process::ExitCode;

use chat_core::printable;
use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::Cli;
use super::key_command::NewKey;
use super::source::Sources;
use super::value::{Invalid, refusal, shortened};
use super::variables::did_you_mean;

/// Why the program does not start.
#[derive(Debug)]
pub(crate) enum Exit {
    /// A flag or a variable; or a request for help.
    Usage(clap::Error),
    /// The configuration file.
    File(String),
    /// Variables that are no settings.
    Unknown(String),
    /// A value that cannot be used.
    Value(Invalid),
    /// A value that cannot be used now: a later start may succeed.
    Unavailable(Invalid),
    /// What no setting is to blame for.
    System(String),
}

impl From<Invalid> for Exit {
    fn from(invalid: Invalid) -> Self {
        Self::Value(invalid)
    }
}

impl Exit {
    /// A setting needs a feature that this program lacks.
    #[cfg(not(all(feature = "jwks", feature = "redis")))]
    pub(crate) fn without(feature: &str) -> Self {
        Self::System(format!("this chat-server was built without the feature {feature:?}"))
    }

    /// Says so: help in full, anything else in one line.
    pub(crate) fn report(self, sources: &Sources) -> ExitCode {
        match self {
            Self::Usage(error)
                if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) =>
            {
                let _ = error.print();
                ExitCode::SUCCESS
            }
            error => {
                let code = error.code();
                say(&error.message(sources));
                code
            }
        }
    }

    /// A service manager starts the program again after 1, and not after 2: what is wrong with a
    /// setting does not pass.
    fn code(&self) -> ExitCode {
        match self {
            Self::Unavailable(_) => ExitCode::FAILURE,
            _ => ExitCode::from(2),
        }
    }

    /// The reason in one line.
    pub(crate) fn message(self, sources: &Sources) -> String {
        match self {
            Self::Usage(error) => usage(&error, sources),
            Self::Value(invalid) | Self::Unavailable(invalid) => {
                invalid.message(|setting| sources.name(setting))
            }
            Self::File(error) | Self::Unknown(error) | Self::System(error) => error,
        }
    }
}

/// An error of clap in one line, without usage and hints, with the setting as it was written and
/// without a secret.
fn usage(error: &clap::Error, sources: &Sources) -> String {
    if error.kind() == ErrorKind::InvalidUtf8
        && let Some(variable) = sources.not_utf8(Cli::command().get_arguments())
    {
        return format!("invalid value for {variable}: it is not UTF-8");
    }
    let mut text = error.to_string();
    if let Some(value) = context(error, ContextKind::InvalidValue) {
        text = text.replace(value, &shortened(value));
    }
    let part = text.lines().take_while(|line| !line.trim().is_empty());
    let line = part.map(str::trim).collect::<Vec<_>>().join(" ");
    let line = line.trim_start_matches("error: ");
    if let Some(command) = context(error, ContextKind::InvalidSubcommand) {
        return format!("{line}{}", meant_command(command));
    }
    // Such as `--port <PORT>`. Other arguments name no setting: they stay as they were written.
    let argument = context(error, ContextKind::InvalidArg).unwrap_or_default();
    let Some(setting) = argument.strip_prefix("--") else { return line.to_owned() };
    let setting = setting.split([' ', '=']).next().unwrap_or(setting);
    let name_of = |setting: &str| sources.name(setting);
    match (refusal(error), context(error, ContextKind::InvalidValue)) {
        (Some(why), _) if is_secret(setting) => Invalid::hidden(setting, why).message(name_of),
        (Some(why), Some(value)) => Invalid::new(setting, value, why).message(name_of),
        _ => {
            let meant = match error.kind() {
                ErrorKind::UnknownArgument => meant_argument(error, setting),
                _ => String::new(),
            };
            line.replace(&format!("'{argument}'"), &sources.name(setting)) + &meant
        }
    }
}

/// Which command a word is that is none, in any case: `chekc`.
fn meant_command(word: &str) -> String {
    let root = Cli::command();
    let commands = root.get_subcommands().map(clap::Command::get_name).chain(["help"]);
    match did_you_mean(&word.to_lowercase(), commands) {
        meant if meant.is_empty() => "; chat-server help lists the commands".to_owned(),
        meant => meant,
    }
}

/// Where an argument stands, or which one is meant.
fn meant_argument(error: &clap::Error, name: &str) -> String {
    let root = Cli::command();
    if is_before_command(error) {
        let mut commands = root.get_subcommands();
        if commands.any(|command| has(command, name)) {
            return "; it stands after the command".to_owned();
        }
    } else if has(&root, name) {
        return "; settings stand before the command".to_owned();
    }
    match context(error, ContextKind::SuggestedArg) {
        Some(meant) => format!("; did you mean {meant}?"),
        None => String::new(),
    }
}

/// Whether the arguments of an error are those before a command: the usage names no command then.
fn is_before_command(error: &clap::Error) -> bool {
    let Some(ContextValue::StyledStr(usage)) = error.get(ContextKind::Usage) else { return false };
    let usage = usage.to_string();
    let second = usage.trim_start_matches("Usage: ").split_whitespace().nth(1);
    second.is_none_or(|word| word.starts_with(['[', '<', '-']))
}

fn has(command: &clap::Command, long: &str) -> bool {
    command.get_arguments().any(|arg| arg.get_long() == Some(long))
}

fn context(error: &clap::Error, kind: ContextKind) -> Option<&str> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text),
        _ => None,
    }
}

fn is_secret(setting: &str) -> bool {
    let command = Cli::command();
    let mut secrets = command.get_arguments().filter(|arg| arg.is_hide_env_values_set());
    secrets.any(|arg| arg.get_long() == Some(setting))
}

/// One line on stdout, and success.
pub(crate) fn print(text: &str, sources: &Sources) -> ExitCode {
    for warning in sources.warnings() {
        say(warning);
    }
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The secret on stderr and the table on stdout, which may be appended to the configuration file.
pub(crate) fn print_key(key: &NewKey, sources: &Sources) -> ExitCode {
    match writeln!(io::stderr(), "{}", key.secret.reveal()) {
        Ok(()) => print(&key.table, sources),
        Err(_) => ExitCode::FAILURE,
    }
}

/// One line on stderr. Escaped: a server, or one of its clients, may have chosen the words.
pub(crate) fn say(line: &str) {
    // `eprintln!` would panic if stderr is closed.
    let _ = writeln!(io::stderr(), "chat-server: {}", printable(line));
}
