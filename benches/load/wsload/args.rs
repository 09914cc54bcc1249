//! The command line.

use std::net::{SocketAddr, ToSocketAddrs};

use clap::{Args, Parser, ValueEnum};

#[derive(Parser)]
pub enum Command {
    /// Load servers, and print what was measured as one line of JSON
    Run(Load),
    /// Run a server that only writes frames: the least cost of a delivery
    Floor {
        /// Port to listen on
        #[arg(long)]
        port: u16,
        /// Write all waiting frames of a connection with one call
        #[arg(long)]
        batch: bool,
    },
}

#[derive(Args, Clone)]
pub struct Load {
    /// Server to load, as ws://HOST:PORT/PATH; connections are spread over several
    #[arg(long = "url", required = true, value_parser = url)]
    pub servers: Vec<Url>,
    /// The protocol of the servers
    #[arg(long)]
    pub dialect: Dialect,
    /// Members of all rooms together
    #[arg(long, default_value_t = 1_000)]
    pub members: usize,
    /// Rooms, over which members are spread evenly
    #[arg(long, default_value_t = 1)]
    pub rooms: usize,
    /// Clients that send, over which rooms are spread evenly
    #[arg(long, default_value_t = 1)]
    pub publishers: usize,
    /// Messages per second of all publishers together; without it a closed loop
    #[arg(long)]
    pub rate: Option<f64>,
    /// Closed loop: messages in flight per publisher
    #[arg(long, default_value_t = 1)]
    pub window: usize,
    /// Closed loop: a message has arrived when as many members, spread over the room, have it
    #[arg(long, default_value_t = 8)]
    pub probes: usize,
    /// Seconds in which the messages in flight may still arrive after the load; what a server then
    /// still delivers is not lost
    #[arg(long, default_value_t = 60.0)]
    pub drain: f64,
    /// Bytes of a message's text
    #[arg(long, default_value_t = 128)]
    pub payload: usize,
    /// Seconds measured
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Seconds of load before the measurement
    #[arg(long, default_value_t = 0.8)]
    pub warmup: f64,
    /// Connect, join and stay: no load
    #[arg(long)]
    pub idle: bool,
    /// Concurrent handshakes
    #[arg(long, default_value_t = 128)]
    pub handshakes: usize,
    /// Process of a server, for its CPU time and memory
    #[arg(long = "server-pid")]
    pub server_pids: Vec<u32>,
    /// Process of the broker, for its CPU time
    #[arg(long = "broker-pid")]
    pub broker_pids: Vec<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Dialect {
    /// The protocol of this project
    Native,
    /// Its dialect `topics`: a sender need not have joined
    Topics,
    /// Socket.IO 4, whose server has the events `join` and `msg`
    #[value(name = "socketio")]
    SocketIo,
    /// The JSON protocol of Centrifugo, whose clients may publish to any channel
    Centrifugo,
    /// The protocol of `wsload floor`
    Floor,
}

#[derive(Clone)]
pub struct Url {
    pub address: SocketAddr,
    pub host: String,
    pub path: String,
}

fn url(text: &str) -> Result<Url, String> {
    let rest = text.strip_prefix("ws://").ok_or("must begin with ws://")?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let address = host.to_socket_addrs().map_err(|error| error.to_string())?.next();
    let path = if path.is_empty() { "/" } else { path };
    Ok(Url { address: address.ok_or("no address")?, host: host.into(), path: path.into() })
}
