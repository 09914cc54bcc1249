//! The program's settings: each is declared once, as an argument of clap, which gives its flag, its
//! default, its check and its line of the help.
//!
//! The name of the flag is the key in the configuration file as well, and in capitals, after
//! `CHAT_`, the variable ([`Sources::with_variables`]). clap reads flags and variables. The file's
//! values are given to clap as if they were flags, where neither a flag nor a variable has said
//! otherwise ([`File::add_to`]): so there is one parser and one check of a value.
//!
//! Of the libraries for layers of settings, confique and figment describe a setting for serde, and
//! clap, which stays for the flags, would need a second description beside it: a default in their
//! layer is not in clap's help, and an error does not name the line of the file. The crates that
//! put a file below clap as is done here (clap-layers, clap-config-fallback) are a first release.

mod api;
mod changes;
mod config_file;
mod connections;
mod contradictions;
mod exit;
mod file;
mod files;
mod key_command;
mod limits;
mod listen;
mod log_filter;
mod operator_command;
#[cfg(test)]
mod page;
mod redis;
mod rooms;
mod source;
#[cfg(test)]
mod tests;
mod text_command;
mod token_command;
mod tokens;
mod value;
mod variables;
mod warnings;

use std::ffi::OsString;
use std::path::PathBuf;

use chat_server::{InvalidConfig, ServerConfig, built};
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, ValueEnum};

use api::Api;
pub(crate) use changes::Values;
use connections::Connections;
use file::{File, Tables};
use limits::Limits;
use rooms::Rooms;
use text_command::TextCommand;

pub(crate) use exit::{Exit, print, print_key, say};
pub(crate) use files::read_text;
pub(crate) use key_command::NewKey;
pub(crate) use listen::Listen;
pub(crate) use operator_command::{
    BenchArgs, CheckArgs, ClientArgs, HealthArgs, OperatorCommand, SendArgs, SettingInEffect,
    SizeArgs, TailArgs,
};
pub(crate) use redis::Redis;
pub(crate) use source::Sources;
pub(crate) use tokens::Tokens;
#[cfg(feature = "jwks")]
pub(crate) use tokens::invalid_jwks_url;
pub(crate) use value::Invalid;
#[cfg(feature = "jwks")]
pub(crate) use value::url_without_secrets;

/// What the program runs with.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    #[command(flatten)]
    pub(crate) listen: Listen,
    #[command(flatten)]
    pub(crate) api: Api,
    #[command(flatten)]
    pub(crate) redis: Redis,
    #[command(flatten)]
    rooms: Rooms,
    #[command(flatten)]
    pub(crate) tokens: Tokens,
    #[command(flatten)]
    pub(crate) limits: Limits,
    #[command(flatten)]
    connections: Connections,
    #[command(flatten)]
    pub(crate) log: LogSettings,

    #[arg(skip)]
    pub(crate) values: Values,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Log")]
pub(crate) struct LogSettings {
    /// What to log: off, error, warn, info, debug, trace, or by module: info,chat_broker=debug
    #[arg(long = "log", id = "log", value_name = "LEVEL", default_value = "info", value_parser = log_filter::log_filter)]
    filter: String,

    /// How to log
    #[arg(
        long = "log-format",
        id = "log_format",
        value_enum,
        value_name = "FORMAT",
        default_value = "human"
    )]
    pub(crate) format: LogFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Human,
    /// One JSON object a line
    Json,
}

/// What `--version` prints behind the name; `-V` prints the version alone.
fn long_version() -> String {
    let (version, commit, profile) = (env!("CARGO_PKG_VERSION"), built::COMMIT, built::PROFILE);
    format!("{version} (commit {commit}, {profile})")
}

/// A chat server whose rooms stay in sync across processes through Redis.
///
/// Every setting is a flag, an environment variable, and a key of the configuration file;
/// a flag wins over the environment, and the environment over the file.
#[derive(Debug, Parser)]
#[command(name = "chat-server", version, long_version = long_version())]
struct Cli {
    /// TOML file with settings, named as the flags are: port = 8081 [default: none]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    settings: Settings,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Makes a token for tests, signed with the secret or with a private key, and prints it
    Token(token_command::TokenArgs),
    /// Makes a key for a backend, and prints it and its table for the configuration file
    Key(key_command::KeyArgs),
    #[command(flatten)]
    Operator(OperatorCommand),
    #[command(flatten)]
    Text(TextCommand),
}

/// What the program is to do.
pub(crate) enum Task {
    Serve(Box<Settings>),
    /// To print a text.
    Print(String),
    /// To print a new key.
    PrintKey(NewKey),
    /// What an operator wants to know of a server with these settings.
    Operate(OperatorCommand, Box<Settings>),
}

impl Task {
    /// Reads all sources.
    pub(crate) fn load(sources: &mut Sources) -> Result<Self, Exit> {
        // Whatever the settings are: a shell completes where a variable is wrong, too.
        if let Ok(Cli { command: Some(Command::Text(text)), .. }) =
            Cli::try_parse_from(sources.flags())
        {
            return text.print().map(Self::Print);
        }
        let Cli { settings, command, .. } = Cli::load(sources)?;
        match command {
            None => Ok(Self::Serve(Box::new(settings))),
            Some(Command::Token(arguments)) => arguments.token(&settings.tokens).map(Self::Print),
            Some(Command::Key(arguments)) => Ok(Self::PrintKey(arguments.key()?)),
            Some(Command::Operator(command)) => Ok(Self::Operate(command, Box::new(settings))),
            Some(Command::Text(text)) => text.print().map(Self::Print),
        }
    }
}

impl Cli {
    fn load(sources: &mut Sources) -> Result<Self, Exit> {
        let command = with_negative_numbers(sources.with_variables(Self::command()));
        let arguments = sources.arguments(&command);
        let mut matches = parse(&command, &arguments)?;
        sources.check_names(&command).map_err(Exit::Unknown)?;
        let mut tables = Tables::default();
        if let Some(path) = matches.get_one::<PathBuf>("config") {
            let text = files::read_text(path).map_err(|error| {
                Invalid::new("config", path.display(), format!("cannot read it: {error}"))
            })?;
            let file = sources.add_file(File::parse(path, &text).map_err(Exit::File)?);
            matches = with_file(file, &command, arguments, &matches)?;
            tables = file.tables().map_err(Exit::File)?;
        }
        sources.add_padded_secrets(&command, &matches);
        let mut cli = Self::new(&matches, tables)?;
        if let Some(Command::Operator(OperatorCommand::Check(check))) = &mut cli.command {
            check.settings = operator_command::in_effect(&command, &matches, sources);
        }
        Ok(cli)
    }

    fn new(matches: &ArgMatches, tables: Tables) -> Result<Self, Exit> {
        let mut cli = Self::from_arg_matches(matches).map_err(Exit::Usage)?;
        cli.settings.values = Values::new(&Self::command(), matches, &tables);
        cli.settings.rooms.classes = tables.rooms;
        cli.settings.api.keys = tables.api_keys;
        cli.settings.tokens.tables = tables.jwt_keys;
        Ok(cli)
    }
}

/// With `--history -1` as an error of that setting, and not of an argument `-1`.
fn with_negative_numbers(command: clap::Command) -> clap::Command {
    let takes_value = |arg: &clap::Arg| arg.get_action().takes_values() && !arg.is_positional();
    let in_all = |command: clap::Command| {
        command.mut_args(|arg| {
            let is_one = takes_value(&arg);
            arg.allow_negative_numbers(is_one)
        })
    };
    in_all(command).mut_subcommands(in_all)
}

/// What `given` says, and the file where it says nothing.
fn with_file(
    file: &File,
    command: &clap::Command,
    mut arguments: Vec<OsString>,
    given: &ArgMatches,
) -> Result<ArgMatches, Exit> {
    let command = file.add_to(&mut arguments, command.clone(), given).map_err(Exit::File)?;
    parse(&command, &arguments)
}

fn parse(command: &clap::Command, arguments: &[OsString]) -> Result<ArgMatches, Exit> {
    command.clone().try_get_matches_from(arguments).map_err(Exit::Usage)
}

impl Settings {
    /// Reads all sources, for a program that serves.
    pub(crate) fn load(sources: &mut Sources) -> Result<Self, Exit> {
        Cli::load(sources).map(|cli| cli.settings)
    }

    /// Whether the setting of this name is a limit.
    pub(crate) fn is_limit(name: &str) -> bool {
        let command = Cli::command();
        let mut limits =
            command.get_arguments().filter(|arg| arg.get_help_heading() == Some(limits::HEADING));
        limits.any(|arg| arg.get_long() == Some(name))
    }

    /// The settings of a file, and of flags above it.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn of_file(text: &str, flags: &[&str]) -> Result<Self, Exit> {
        let command = Cli::command();
        let arguments: Vec<_> = ["chat-server"].iter().chain(flags).map(OsString::from).collect();
        let file = File::parse(std::path::Path::new("chat.toml"), text).map_err(Exit::File)?;
        let given = parse(&command, &arguments)?;
        let matches = with_file(&file, &command, arguments, &given)?;
        Cli::new(&matches, file.tables().map_err(Exit::File)?).map(|cli| cli.settings)
    }

    /// What the digest has of the settings of Redis and of tokens.
    pub(crate) fn shared_settings(&self, redis: &Redis) -> Result<String, Invalid> {
        Ok(format!("{} {}", redis.shared(), self.tokens.shared()?))
    }

    /// The part that an application which embeds the server would set itself.
    ///
    /// # Errors
    /// Settings that contradict one another, and texts that are not valid.
    pub(crate) fn server(&self) -> Result<ServerConfig, Invalid> {
        let mut server = ServerConfig::default();
        self.listen.check_apart(&self.listen.known_addresses().unwrap_or_default())?;
        self.listen.add_to(&mut server);
        server.limits = self.limits.config(!server.trusted_proxies.is_empty());
        self.connections.add_to(&mut server, self.limits.enabled)?;
        self.api.add_to(&mut server)?;
        self.tokens.add_to(&mut server);
        server.hub = self.rooms.hub().workers(self.listen.threads().get());
        server.shared_settings = self.shared_settings(&self.redis)?;
        let invalid = |InvalidConfig { setting, value, why, .. }| {
            // As the flags and the file name it; tables of the file have an underscore.
            let name = match setting {
                "api_keys" => setting.to_owned(),
                _ => setting.replace('_', "-"),
            };
            Invalid::new(&name, value, why)
        };
        server.check().map_err(invalid)?;
        Ok(server)
    }
}

impl LogSettings {
    /// What `EnvFilter` takes.
    pub(crate) fn filter(&self) -> &str {
        if self.filter.is_empty() { "info" } else { &self.filter }
    }

    /// A line for each module that does not exist.
    pub(crate) fn unknown_modules(&self) -> Vec<String> {
        log_filter::unknown_modules(self.filter())
    }
}
