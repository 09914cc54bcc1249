//! The arguments of the commands for operators; `commands/` carries them out.

use std::time::Duration;

use clap::builder::StyledStr;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, Subcommand};

use super::source::Sources;
use super::value::{HOUR, MILLISECOND, time};

/// What an operator wants to know of a server with these settings.
#[derive(Debug, Subcommand)]
pub(crate) enum OperatorCommand {
    /// Prints the settings in effect, and whether a server can run with them here
    #[command(after_help = CHECK_EXAMPLE)]
    Check(CheckArgs),
    /// Asks the running server with these settings whether it is ready, for probes
    #[command(after_help = HEALTH_EXAMPLE)]
    Health(HealthArgs),
}

const CHECK_EXAMPLE: &str = "\
Exit code: 0 if a server can run, 1 if a check fails, 2 if a setting is not valid.

Example:
  chat-server --config /etc/chat.toml check";

const HEALTH_EXAMPLE: &str = "\
Exit code: 0 if the server is ready (with --live: answers), 1 if not, 2 if a setting is not valid.

Example, in a Dockerfile:
  HEALTHCHECK CMD [\"chat-server\", \"health\"]";

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    #[arg(skip)]
    pub(crate) settings: Vec<SettingInEffect>,
}

#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// Ask for /healthz, which answers while the process lives, instead of /readyz
    #[arg(long)]
    pub(crate) live: bool,

    /// How long to wait for the answer
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = time(MILLISECOND..=HOUR))]
    pub(crate) timeout: Duration,
}

/// A setting with its value, for people.
#[derive(Debug, serde::Serialize)]
pub(crate) struct SettingInEffect {
    pub(crate) name: String,
    pub(crate) value: String,
    /// As [`Sources::name`] has it, or `default`.
    pub(crate) source: String,
}

/// All settings but the tables of the file, in the order of the help.
pub(super) fn in_effect(
    command: &Command,
    matches: &ArgMatches,
    sources: &Sources,
) -> Vec<SettingInEffect> {
    let setting = |arg: &Arg| {
        let name = arg.get_long()?;
        let given = matches.value_source(arg.get_id().as_str());
        let source = match given {
            None | Some(ValueSource::DefaultValue) => "default".to_owned(),
            Some(_) => sources.name(name),
        };
        Some(SettingInEffect { name: name.to_owned(), value: value(arg, matches), source })
    };
    command.get_arguments().filter_map(setting).collect()
}

fn value(arg: &Arg, matches: &ArgMatches) -> String {
    let Some(raw) = matches.get_raw(arg.get_id().as_str()) else { return described_default(arg) };
    if arg.is_hide_env_values_set() {
        return "(hidden)".to_owned();
    }
    raw.map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(",")
}

/// The default of a setting that has none for clap, which its help describes.
fn described_default(arg: &Arg) -> String {
    let help = arg.get_help().map(StyledStr::to_string).unwrap_or_default();
    let default = help.split_once("[default: ").map(|(_, default)| default);
    default.map_or_else(String::new, |default| default.trim_end_matches(']').to_owned())
}
