//! The clients: each is in one room, and those of a room send in turn.

use std::sync::Arc;
use std::time::Duration;

use chat_transport::client::{Client, ClientConfig, Event, Events, State};
use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::access::Access;
use super::figures::{Figures, Mark};
use crate::settings::{BenchArgs, Exit};

/// Clients that connect at the same time.
const CONNECTING: usize = 64;

/// After so long without an arrival, messages that are missing will not arrive.
const SILENCE: Duration = Duration::from_secs(10);

/// How often the drain looks whether all messages have arrived.
const DRAIN_INTERVAL: Duration = Duration::from_millis(10);

/// Why a client has not joined its room.
pub(super) enum NotJoined {
    /// A setting is not valid.
    Invalid(Exit),
    Failed(String),
}

/// The clients of a run.
pub(super) struct Load<'a> {
    args: &'a BenchArgs,
    run: Run,
    /// The client with the index `n` is in the room `n % rooms`.
    clients: Vec<Client>,
    sending: JoinSet<()>,
    /// Of the load, and of its latest message.
    times: (Instant, Instant),
}

/// What all clients of a run share.
#[derive(Clone)]
struct Run {
    /// Drawn for this run: rooms and messages of others are none of it.
    id: u32,
    start: Instant,
    figures: Arc<Mutex<Figures>>,
}

impl<'a> Load<'a> {
    /// Connects the clients, and waits until all have joined.
    ///
    /// # Errors
    /// Why a client cannot.
    pub(super) async fn start(
        args: &'a BenchArgs,
        access: &Access,
        figures: &Arc<Mutex<Figures>>,
    ) -> Result<Self, NotJoined> {
        let start = Instant::now();
        let id = getrandom::u32().map_err(|error| NotJoined::Failed(error.to_string()))?;
        let run = Run { id, start, figures: Arc::clone(figures) };
        let joining = stream::iter(0..args.clients).map(|index| join(index, args, access, &run));
        let clients = joining.buffered(CONNECTING).try_collect().await?;
        figures.lock().joined_in = start.elapsed();
        Ok(Self { args, run, clients, sending: JoinSet::new(), times: (start, start) })
    }

    /// Sends at the rate, however slow the server is: beyond a hundred messages of a client that wait
    /// for their answer, further ones fail.
    ///
    /// # Cancel safety
    /// When it is dropped, the load ends.
    pub(super) async fn send_for(&mut self, time: Duration) {
        let (start, rate) = (Instant::now(), f64::from(self.args.rate));
        for number in 0_u32.. {
            let due = Duration::from_secs_f64(f64::from(number) / rate);
            if due >= time {
                break;
            }
            sleep_until(start + due).await;
            self.send(number as usize);
            self.times = (start, Instant::now());
            while self.sending.try_join_next().is_some() {}
        }
    }

    /// Sends to each room in turn, by each of its members in turn.
    fn send(&mut self, number: usize) {
        let (rooms, size) = (self.args.rooms, self.args.size);
        let room = number % rooms;
        let members = (self.clients.len() - room).div_ceil(rooms);
        let sender = room + (number / rooms % members) * rooms;
        let mut mark = self.run.figures.lock().sending(sender, members);
        let (client, run) = (self.clients[sender].clone(), self.run.clone());
        // On one thread, tasks begin in the order in which they were spawned.
        self.sending.spawn(async move {
            mark.sent_ns = run.now_ns();
            let outcome = client.try_send(&run.room(room), &run.text(&mark, size)).await;
            run.figures.lock().answered(mark.number, outcome.map(drop));
        });
    }

    /// Waits until all messages are answered and have arrived, or none has arrived for a while: a slow
    /// server is waited for as long as it delivers.
    pub(super) async fn drain(&mut self) {
        while self.sending.join_next().await.is_some() {}
        let (mut delivered, mut latest) = (0, Instant::now());
        while latest.elapsed() < SILENCE {
            {
                let figures = self.run.figures.lock();
                if figures.is_complete() {
                    return;
                }
                if figures.delivered() > delivered {
                    (delivered, latest) = (figures.delivered(), Instant::now());
                }
            }
            sleep(DRAIN_INTERVAL).await;
        }
    }

    pub(super) fn sending_time(&self) -> Duration {
        self.times.1 - self.times.0
    }

    /// Ends the connections.
    pub(super) async fn close(&self) {
        join_all(self.clients.iter().map(Client::close)).await;
    }
}

async fn join(
    index: usize,
    args: &BenchArgs,
    access: &Access,
    run: &Run,
) -> Result<Client, NotJoined> {
    let user = format!("{}-{index}", args.client.user);
    // With the times of every client: a message outlives a server that is frozen.
    let config = ClientConfig::default();
    let (client, mut events) = access.connect(&user, config).map_err(NotJoined::Invalid)?;
    let failed = |why| NotJoined::Failed(format!("{user:?} cannot join: {why}"));
    let room = run.room(index % args.rooms);
    tokio::select! {
        joined = client.join(&room, 0) => {
            joined.map_err(|error| failed(error.to_string()))?;
        }
        loss = until_disconnected(&mut events) => return Err(failed(loss)),
    }
    run.figures.lock().joined += 1;
    tokio::spawn(run.clone().receive(index, events));
    Ok(client)
}

/// Reads events until the connection fails, and returns why.
async fn until_disconnected(events: &mut Events) -> String {
    while let Some(event) = events.recv().await {
        if let Event::State(State::Waiting { loss, .. } | State::Closed { loss }) = event {
            return loss.to_string();
        }
    }
    "it has ended".to_owned()
}

impl Run {
    fn room(&self, index: usize) -> String {
        format!("bench-{:08x}-{index}", self.id)
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The text of a message, of so many bytes.
    fn text(&self, mark: &Mark, size: usize) -> String {
        let Mark { number, sender, sequence, sent_ns } = mark;
        let text = format!("{:08x} {number} {sender} {sequence} {sent_ns} ", self.id);
        format!("{text:x<size$}")
    }

    /// `None` if the message is not of this run.
    fn mark(&self, text: &str) -> Option<Mark> {
        let mut parts = text.split(' ');
        if u32::from_str_radix(parts.next()?, 16) != Ok(self.id) {
            return None;
        }
        Some(Mark {
            number: parts.next()?.parse().ok()?,
            sender: parts.next()?.parse().ok()?,
            sequence: parts.next()?.parse().ok()?,
            sent_ns: parts.next()?.parse().ok()?,
        })
    }

    /// Counts what the client with this index receives.
    async fn receive(self, index: usize, mut events: Events) {
        while let Some(event) = events.recv().await {
            match event {
                Event::Message(message) => {
                    let now_ns = self.now_ns();
                    if let Some(mark) = self.mark(&message.text) {
                        self.figures.lock().arrived(index, mark, now_ns);
                    }
                }
                Event::Gap { .. } => self.figures.lock().missed_messages(),
                Event::State(State::Waiting { .. }) => self.figures.lock().disconnected(),
                _ => {}
            }
        }
    }
}
