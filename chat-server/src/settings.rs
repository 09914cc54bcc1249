//! The program's settings: a file, the environment and flags, each over the one before.

mod build;
mod check;
mod exit;
mod layer;
mod network;
mod period;
mod rate;
mod redis;
mod sources;
mod token;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chat_server::ServerConfig;
use clap::{CommandFactory, Parser, ValueEnum};
use serde::Deserialize;

pub(crate) use exit::{Exit, print};
pub(crate) use layer::Layer;
pub(crate) use sources::{Invalid, Sources};

/// What the program runs with.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) port: u16,
    pub(crate) host: Option<String>,
    pub(crate) metrics_addr: Option<SocketAddr>,
    pub(crate) redis_url: Option<String>,
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "of use to Redis alone"))]
    redis_tls: redis::RedisTls,
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "of use to Redis alone"))]
    pub(crate) redis_prefix: String,
    /// How long a server that is gone holds its users in rooms.
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "of use to Redis alone"))]
    pub(crate) presence_lease: Duration,
    pub(crate) tokens: Option<Tokens>,
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
    pub(crate) threads: NonZeroUsize,
    server: ServerConfig,
    /// Whether the number of connections is for the system to limit.
    pub(crate) connections_by_system: bool,
    pub(crate) limits_are_off: bool,
}

/// What tokens clients need.
#[derive(Debug)]
#[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "of use to tokens alone"))]
pub(crate) struct Tokens {
    pub(crate) key: TokenKey,
    pub(crate) audience: Vec<String>,
    pub(crate) issuer: Vec<String>,
    /// How far the clocks of servers and of the issuer may be apart.
    pub(crate) leeway: Duration,
}

/// What tokens are signed with.
#[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "of use to tokens alone"))]
pub(crate) enum TokenKey {
    Secret(String),
    /// A file with a public key.
    Public(PathBuf),
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Secret(_) => f.write_str("Secret(…)"),
            Self::Public(path) => f.debug_tuple("Public").field(path).finish(),
        }
    }
}

#[derive(Debug, Clone, Copy, Default, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people
    #[default]
    Human,
    /// One JSON object a line
    Json,
}

/// A chat server whose rooms stay in sync across processes through Redis.
///
/// Every setting is a flag, an environment variable, and a key of the configuration file;
/// a flag wins over the environment, and the environment over the file.
#[derive(Debug, Parser)]
#[command(name = "chat-server", version)]
struct Cli {
    /// A TOML file with settings, named as the flags are: `port = 8081`
    #[arg(long, env = "CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    layer: Layer,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Makes a token for trying out, signed with the secret or with a private key, and prints it
    Token(token::Wish),
}

/// What the program is to do.
pub(crate) enum Task {
    Serve(Box<Settings>),
    /// To print a text.
    Print(String),
}

impl Task {
    /// Reads all sources.
    pub(crate) fn load(sources: &mut Sources) -> Result<Self, Exit> {
        let arguments = sources.arguments(Cli::command().get_arguments());
        let Cli { config, layer, command } = Cli::try_parse_from(arguments).map_err(Exit::Usage)?;
        let file = config.map_or(Ok(Layer::default()), |path| read(&path, sources))?;
        let mut layer = layer.over(file);
        sources.add_padded(layer.trim());
        match command {
            None => Ok(Self::Serve(Box::new(layer.into_settings()?))),
            Some(Command::Token(wish)) => wish.grant(&layer).map(Self::Print),
        }
    }
}

impl Settings {
    pub(crate) fn server(&self) -> ServerConfig {
        self.server.clone()
    }
}

fn read(path: &Path, sources: &mut Sources) -> Result<Layer, Exit> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Invalid::new("config", path.display(), format!("cannot read it: {error}"))
    })?;
    sources.add_file(path, &text);
    Layer::parse(&text).map_err(|wrong| Exit::File(format!("{}, {wrong}", path.display())))
}
