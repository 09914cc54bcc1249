//! The arguments of the commands for operators; `commands/` carries them out.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::StyledStr;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, Subcommand};

use super::source::Sources;
use super::value::{HOUR, MAX_BYTES, MAX_COUNT, MILLISECOND, SECOND, factor, number, room, time};

/// What a room keeps by default, and a join returns at most.
const MAX_HISTORY: u32 = 256;

/// All port numbers of an address, of which each client needs one. By default the system assigns 28,232
/// of them.
const MAX_CLIENTS: usize = 65_535;

/// The longest text of a message that a server accepts by default.
const MAX_TEXT: usize = 32_768;

/// What an operator wants to know of a server with these settings.
#[derive(Debug, Subcommand)]
pub(crate) enum OperatorCommand {
    /// Prints the settings in effect, and whether a server can run with them here
    #[command(after_help = CHECK_EXAMPLE)]
    Check(CheckArgs),
    /// Asks the running server with these settings whether it is ready, for probes
    #[command(after_help = HEALTH_EXAMPLE)]
    Health(HealthArgs),
    /// Prints the messages of a room, as a member of it
    #[command(after_help = TAIL_EXAMPLE)]
    Tail(TailArgs),
    /// Sends a message to a room, as a member of it
    #[command(after_help = SEND_EXAMPLE)]
    Send(SendArgs),
    /// Loads a server with clients that send to rooms, and prints how long messages took
    #[command(after_help = BENCH_EXAMPLE)]
    Bench(BenchArgs),
    /// Prints the memory, CPU, files and ports that so many users and messages need
    #[command(after_help = SIZE_EXAMPLE)]
    Size(SizeArgs),
}

const CHECK_EXAMPLE: &str = "\
Exit code: 0 if a server can run, 1 if a check fails, 2 if a setting is not valid.

Example:
  chat-server --config /etc/chat.toml check";

const HEALTH_EXAMPLE: &str = "\
Exit code: 0 if the server is ready (with --live: answers), 1 if not, 2 if a setting is not valid.

Example, in a Dockerfile:
  HEALTHCHECK CMD [\"chat-server\", \"health\"]";

const TAIL_EXAMPLE: &str = "\
Lost connections are opened again; a line says so, and another one if messages are missing. Ctrl-C
ends it with exit code 0; 1 if the server rejects the client, 2 if a setting is not valid.

Example:
  chat-server tail general --history 20";

const SEND_EXAMPLE: &str = "\
Exit code: 0 if the message is in the room, 1 if not or if that is unknown, 2 if a setting is not
valid.

Example:
  chat-server send general 'The servers restart at 22:00.'";

const BENCH_EXAMPLE: &str = "\
The limits of the server count: start it with --limits off to find out what it can do. The rooms are
new ones, and the server keeps their history as that of others. Ctrl-C ends it with the figures so
far.

Exit code: 0; 1 if a message failed, did not arrive, or arrived twice or out of order, if there was
a gap, or if clients cannot join; 2 if a setting is not valid.

Example:
  chat-server bench --clients 1000 --rooms 20 --rate 500 --for 30s";

const SIZE_EXAMPLE: &str = "\
The history is that of --history, --history-bytes and --history-ttl. docs/sizing.md has the formula,
and what it was measured on.

Example:
  chat-server --history 100 size --users 20000 --rooms 4000 --members 10 --messages 500 --servers 3";

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

#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// Room
    #[arg(value_parser = room)]
    pub(crate) room: String,

    /// Print so many of the latest messages first, at most 256
    #[arg(long, value_name = "MESSAGES", default_value = "0", value_parser = number(0..=MAX_HISTORY))]
    pub(crate) history: u32,

    /// Print one JSON object a line
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SendArgs {
    /// Room
    #[arg(value_parser = room)]
    pub(crate) room: String,

    /// Text of the message
    pub(crate) text: String,

    /// How long to try
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time(MILLISECOND..=HOUR))]
    pub(crate) timeout: Duration,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Clients, each in one room
    #[arg(long, value_name = "NUMBER", default_value = "100", value_parser = number(1..=MAX_CLIENTS))]
    pub(crate) clients: usize,

    /// Rooms, at most as many as clients
    #[arg(long, value_name = "NUMBER", default_value = "10", value_parser = number(1..=MAX_CLIENTS))]
    pub(crate) rooms: usize,

    /// Messages a second, of all clients together; the clients of a room send in turn
    #[arg(long, value_name = "MESSAGES", default_value = "100", value_parser = number(1..=1_000_000_u32))]
    pub(crate) rate: u32,

    /// How long to send
    #[arg(long = "for", value_name = "TIME", default_value = "10s", value_parser = time(SECOND..=HOUR))]
    pub(crate) time: Duration,

    /// Text of a message, in bytes
    #[arg(long, value_name = "BYTES", default_value = "128", value_parser = number(64..=MAX_TEXT))]
    pub(crate) size: usize,

    /// Allow a server on another machine
    #[arg(long)]
    pub(crate) remote: bool,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SizeArgs {
    /// Connected users, on all servers together
    #[arg(long, value_name = "NUMBER", value_parser = number(1..=MAX_COUNT))]
    pub(crate) users: usize,

    /// Rooms, on all servers together
    #[arg(long, value_name = "NUMBER", value_parser = number(0..=MAX_COUNT))]
    pub(crate) rooms: usize,

    /// Users in a room, on average
    #[arg(long, value_name = "NUMBER", value_parser = number(0..=MAX_COUNT))]
    pub(crate) members: usize,

    /// Messages a second, in all rooms together
    #[arg(long, value_name = "NUMBER", value_parser = number(0..=MAX_COUNT))]
    pub(crate) messages: usize,

    /// Text of a message, in bytes, on average
    #[arg(long, value_name = "BYTES", default_value = "100", value_parser = number(0..=MAX_BYTES))]
    pub(crate) text: usize,

    /// Servers, over which users are spread evenly: the figures of a server are those while one is away
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = number(1..=MAX_COUNT))]
    pub(crate) servers: usize,

    /// CPU of your machine for the same work, as a multiple of that of docs/sizing.md
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = factor)]
    pub(crate) cpu_factor: f64,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// How a command connects as a client.
#[derive(Debug, Args)]
pub(crate) struct ClientArgs {
    /// Address of the server, ws:// or wss:// [default: of a server with these settings on this
    /// machine]
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,

    /// Name of the user; with the secret of tokens in these settings, the id of the user in a token
    /// that the command signs
    #[arg(long, value_name = "NAME", default_value = "operator")]
    pub(crate) user: String,

    /// File with a token to use instead [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

/// A setting with its value, for people.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct SettingInEffect {
    pub(crate) name: String,
    pub(crate) value: String,
    /// As [`Sources::name`] has it, or [`DEFAULT`](Self::DEFAULT).
    pub(crate) source: String,
    #[serde(skip)]
    pub(crate) is_secret: bool,
}

impl SettingInEffect {
    /// The source of a value that no source has.
    pub(crate) const DEFAULT: &str = "default";

    pub(crate) fn is_of_file(&self) -> bool {
        self.source.strip_prefix(&*self.name).is_some_and(|place| place.starts_with(" ("))
    }
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
            None | Some(ValueSource::DefaultValue) => SettingInEffect::DEFAULT.to_owned(),
            Some(_) => sources.name(name),
        };
        let is_secret = arg.is_hide_env_values_set();
        Some(SettingInEffect {
            name: name.to_owned(),
            value: value(arg, matches),
            source,
            is_secret,
        })
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
