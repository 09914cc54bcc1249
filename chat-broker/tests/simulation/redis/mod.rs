//! A Redis in the process of the test, whose clock is that of the runtime: in paused time an hour
//! of it takes as long as the work in it.
//!
//! It has the commands that the broker uses, runs the broker's scripts as they are, and does what
//! Redis does in one thread: one request after the other, a script in one step. Its answers are
//! compared with those of the real one by [`simulated_redis_answers_as_redis`](crate::simulation::differential).

mod collections;
mod keyspace;
mod list;
mod lua;
mod lua_struct;
mod resp;
mod state;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::watch;

use keyspace::Keyspace;
use lua::Scripts;
use resp::Reply;
use state::{Client, State};

/// A handle on it; a clone is another.
#[derive(Clone)]
pub(crate) struct Redis {
    state: Arc<Mutex<State>>,
    scripts: Arc<Mutex<Scripts>>,
    process: watch::Sender<Process>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Process {
    Runs,
    /// Connections are accepted, by the system, and nothing is answered.
    Stopped,
    Ended,
}

/// A copy of the data.
pub(crate) struct Saved(Keyspace);

impl Redis {
    pub(crate) fn start() -> Self {
        let state = Arc::new(Mutex::new(State::new()));
        let scripts = Arc::new(Mutex::new(Scripts::new(&state)));
        Self { state, scripts, process: watch::Sender::new(Process::Runs) }
    }

    /// Serves a connection.
    ///
    /// # Errors
    /// There is no process to accept it.
    pub(crate) fn accept(&self, stream: DuplexStream) -> io::Result<()> {
        if *self.process.borrow() == Process::Ended {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (reader, writer) = split(stream);
        let (answers, to_write) = unbounded_channel();
        let mut state = self.state();
        state.connections += 1;
        let id = state.connections;
        let reader = tokio::spawn(self.clone().serve(id, reader)).abort_handle();
        state.clients.insert(id, Client { answers, channels: Default::default(), reader });
        tokio::spawn(write(writer, to_write));
        Ok(())
    }

    /// Carries out a command as a client would, and returns the answer as text, an element a line.
    pub(crate) fn command(&self, arguments: &[&str]) -> String {
        self.request(arguments).into_lines().join("\n")
    }

    pub(crate) fn request(&self, arguments: &[impl AsRef<[u8]>]) -> Reply {
        let arguments: Vec<_> = arguments.iter().map(|one| one.as_ref().to_vec()).collect();
        let mut replies = self.handle(0, &arguments);
        replies.remove(0)
    }

    /// As a process that is stopped by a signal.
    pub(crate) fn pause(&self) {
        self.process.send_replace(Process::Stopped);
    }

    pub(crate) fn resume(&self) {
        self.process.send_replace(Process::Runs);
    }

    /// The process ends, with all connections.
    pub(crate) fn kill(&self) {
        self.process.send_replace(Process::Ended);
        self.kill_connections();
    }

    /// Another process begins, with the data of the one before, or with another copy.
    pub(crate) fn restart(&self, data: Option<Saved>) {
        self.kill();
        let mut state = self.state();
        state.run += 1;
        if let Some(Saved(keyspace)) = data {
            state.keyspace = keyspace;
        }
        drop(state);
        self.scripts.lock().unwrap().flush();
        self.resume();
    }

    pub(crate) fn save(&self) -> Saved {
        Saved(self.state().keyspace.clone())
    }

    /// What is on the disk of a Redis that keeps nothing.
    pub(crate) fn nothing() -> Saved {
        Saved(Keyspace::default())
    }

    pub(crate) fn kill_connections(&self) {
        let mut state = self.state();
        for client in std::mem::take(&mut state.clients).into_values() {
            client.reader.abort();
        }
    }

    /// Sets the clock, by which keys expire and leases end.
    pub(crate) fn shift_clock(&self, forward: bool, by: Duration) {
        let by = by.as_micros() as i64;
        self.state().shift += if forward { by } else { -by };
    }

    /// How many connections are subscribed to a channel.
    pub(crate) fn subscribers(&self, channel: &str) -> usize {
        let state = self.state();
        let has = |client: &&Client| client.channels.contains(channel.as_bytes());
        state.clients.values().filter(has).count()
    }

    async fn serve(self, client: u64, mut reader: ReadHalf<DuplexStream>) {
        let mut input = Vec::new();
        let mut process = self.process.subscribe();
        while reader.read_buf(&mut input).await.is_ok_and(|read| read > 0) {
            // The sender lives as long as `self`.
            let _ = process.wait_for(|process| *process == Process::Runs).await;
            let mut at = 0;
            while let Some(request) = resp::take_request(&input, &mut at) {
                let replies = self.handle(client, &request);
                if let Some(client) = self.state().clients.get(&client) {
                    replies.iter().for_each(|reply| client.send(reply));
                }
            }
            input.drain(..at);
        }
        self.state().disconnect(client);
    }

    /// Carries out one request of a client. Only to `SUBSCRIBE` and `UNSUBSCRIBE` there may be
    /// several answers, or none.
    fn handle(&self, client: u64, request: &[Vec<u8>]) -> Vec<Reply> {
        self.state().tick();
        let name = String::from_utf8_lossy(&request[0]).to_ascii_uppercase();
        let scripts = || self.scripts.lock().unwrap();
        vec![match (&*name, request.get(1).map(Vec::as_slice)) {
            ("HELLO", _) => hello(client),
            ("PING", _) => Reply::Status("PONG".to_owned()),
            ("SELECT", _) => Reply::ok(),
            ("EVAL", Some(text)) => scripts().eval(text, &request[2..]),
            ("EVALSHA", Some(name)) => scripts().eval_stored(name, &request[2..]),
            ("SCRIPT", Some(b"LOAD")) => scripts().load(&request[2]),
            ("SCRIPT", Some(b"FLUSH")) => {
                scripts().flush();
                Reply::ok()
            }
            ("CLIENT", Some(b"ID")) => Reply::Int(client as i64),
            ("CLIENT", Some(b"KILL")) => {
                let id = keyspace::number(&request[3]).unwrap_or(0);
                Reply::Int(self.state().disconnect(id as u64).into())
            }
            ("PUBSUB", Some(b"NUMSUB")) => {
                let count = |channel: &Vec<u8>| self.subscribers(&String::from_utf8_lossy(channel));
                let counts = request[2..]
                    .iter()
                    .flat_map(|channel| [Reply::bulk(channel), Reply::Int(count(channel) as i64)]);
                Reply::Array(counts.collect())
            }
            ("SUBSCRIBE" | "UNSUBSCRIBE", _) => {
                return self.set_subscribed(client, &request[1..], name == "SUBSCRIBE");
            }
            _ => self.state().execute(request),
        }]
    }

    fn set_subscribed(&self, client: u64, channels: &[Vec<u8>], subscribes: bool) -> Vec<Reply> {
        let mut state = self.state();
        let Some(client) = state.clients.get_mut(&client) else { return Vec::new() };
        let mut replies = Vec::new();
        for channel in channels {
            if subscribes {
                client.channels.insert(channel.clone());
            } else {
                client.channels.remove(channel);
            }
            let kind = Reply::bulk(if subscribes { "subscribe" } else { "unsubscribe" });
            let count = Reply::Int(client.channels.len() as i64);
            replies.push(Reply::Push(vec![kind, Reply::bulk(channel), count]));
        }
        replies
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

async fn write(mut writer: WriteHalf<DuplexStream>, mut answers: UnboundedReceiver<Vec<u8>>) {
    while let Some(answer) = answers.recv().await {
        if writer.write_all(&answer).await.is_err() {
            return;
        }
    }
    let _ = writer.shutdown().await;
}

fn hello(client: u64) -> Reply {
    let text = |name: &str, value: &str| (Reply::bulk(name), Reply::bulk(value));
    let number = |name: &str, value| (Reply::bulk(name), Reply::Int(value));
    Reply::Map(vec![
        text("server", "redis"),
        text("version", "7.2.0"),
        number("proto", 3),
        number("id", client as i64),
        text("mode", "standalone"),
        text("role", "master"),
    ])
}
