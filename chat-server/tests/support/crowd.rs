//! Many clients, who say numbered messages and keep what they hear.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chat_transport::client::{Client, ClientConfig, Event, Events, State};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::verdict::Record;

/// Between two messages of a client.
const PACE: Duration = Duration::from_millis(400);

/// How long anything may take in the end.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Crowd {
    talkers: Vec<Talker>,
    stop: Arc<AtomicBool>,
}

struct Talker {
    name: String,
    client: Client,
    record: Arc<Mutex<Record>>,
    heard: Arc<Notify>,
    writing: Mutex<Option<JoinHandle<()>>>,
}

impl Crowd {
    /// All join their rooms; then all begin to talk. The `n`th client connects to `urls(n)`, and
    /// reconnects soon.
    pub(crate) async fn join(
        urls: impl Fn(usize) -> Vec<String>,
        clients: usize,
        rooms: usize,
    ) -> Self {
        let config = ClientConfig::default()
            .backoff_base(Duration::from_millis(200))
            .backoff_cap(Duration::from_secs(2));
        Self::join_with(config, urls, clients, rooms).await
    }

    /// As [`join`](Self::join), with these settings of the clients.
    pub(crate) async fn join_with(
        config: ClientConfig,
        urls: impl Fn(usize) -> Vec<String>,
        clients: usize,
        rooms: usize,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut talkers = Vec::new();
        for n in 0..clients {
            let room = format!("room-{}", n % rooms);
            talkers.push(Talker::join(config.clone(), urls(n), n, room).await);
        }
        for (n, talker) in talkers.iter().enumerate() {
            talker.begin(n, Arc::clone(&stop));
        }
        Self { talkers, stop }
    }

    /// Nobody says anything more; returns when everybody has heard all that was
    /// acknowledged, or has had enough time for it.
    pub(crate) async fn finish(&self) -> Vec<Record> {
        self.stop.store(true, Ordering::Relaxed);
        for talker in &self.talkers {
            let writing = talker.writing.lock().unwrap().take();
            timeout(PATIENCE, writing.unwrap()).await.expect("a send hangs").unwrap();
        }
        // One more each: a client that has heard the last of all others has heard all.
        self.everybody_hears_everybody().await;
        self.talkers.iter().map(|talker| talker.record.lock().unwrap().clone()).collect()
    }

    /// Everybody says something; how many do not hear all of it?
    pub(crate) async fn everybody_hears_everybody(&self) -> usize {
        let sends: Vec<_> = self.talkers.iter().map(|talker| talker.say("end")).collect();
        for outcome in futures_util::future::join_all(sends).await {
            assert!(outcome, "the last message was not taken");
        }
        let mut stuck = 0;
        for talker in &self.talkers {
            let room = &talker.record.lock().unwrap().room.clone();
            let ends: Vec<String> = self
                .talkers
                .iter()
                .filter(|other| other.record.lock().unwrap().room == *room)
                .map(|other| {
                    let record = other.record.lock().unwrap();
                    record.acknowledged.last().expect("the last message").0.clone()
                })
                .collect();
            stuck += usize::from(timeout(PATIENCE, talker.hears(&ends)).await.is_err());
        }
        stuck
    }

    /// Whether every room has just the members that it should have.
    pub(crate) async fn check_members(&self) -> Result<(), String> {
        for talker in &self.talkers {
            let room = talker.record.lock().unwrap().room.clone();
            let members = talker.client.members(&room).await.map_err(|error| error.to_string())?;
            let there: BTreeSet<String> = members.users.into_iter().map(|user| user.name).collect();
            let expected: BTreeSet<String> = self
                .talkers
                .iter()
                .filter(|other| other.record.lock().unwrap().room == room)
                .map(|other| other.name.clone())
                .collect();
            if there != expected {
                return Err(format!("{room}: {there:?} instead of {expected:?}"));
            }
        }
        Ok(())
    }
}

impl Talker {
    async fn join(config: ClientConfig, urls: Vec<String>, n: usize, room: String) -> Self {
        let name = format!("client-{n}");
        let (client, events) = Client::connect(urls, config.name(&name)).unwrap();
        let record = Arc::new(Mutex::new(Record { room: room.clone(), ..Record::default() }));
        let heard = Arc::new(Notify::new());
        tokio::spawn(listen(events, Arc::clone(&record), Arc::clone(&heard)));
        client.join(&room, 0).await.expect("joining");
        Self { name, client, record, heard, writing: Mutex::default() }
    }

    fn begin(&self, n: usize, stop: Arc<AtomicBool>) {
        let talker = Speaker {
            name: self.name.clone(),
            client: self.client.clone(),
            record: Arc::clone(&self.record),
        };
        let writing = tokio::spawn(async move {
            sleep(PACE * (n as u32 % 20) / 20).await;
            let mut number = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                number += 1;
                talker.say(&number.to_string()).await;
                sleep(PACE).await;
            }
        });
        *self.writing.lock().unwrap() = Some(writing);
    }

    async fn say(&self, text: &str) -> bool {
        let record = Arc::clone(&self.record);
        let said = record.lock().unwrap().acknowledged.len();
        let speaker = Speaker { name: self.name.clone(), client: self.client.clone(), record };
        speaker.say(&format!("{text}-{said}")).await
    }

    async fn hears(&self, all: &[String]) {
        loop {
            let heard = self.heard.notified();
            {
                let record = self.record.lock().unwrap();
                let heard: BTreeSet<&String> = record.heard.iter().map(|(text, ..)| text).collect();
                if all.iter().all(|text| heard.contains(text)) {
                    return;
                }
            }
            heard.await;
        }
    }
}

struct Speaker {
    name: String,
    client: Client,
    record: Arc<Mutex<Record>>,
}

impl Speaker {
    async fn say(&self, text: &str) -> bool {
        let (text, room) =
            (format!("{} {text}", self.name), self.record.lock().unwrap().room.clone());
        let outcome = self.client.send(&room, &text).await;
        let mut record = self.record.lock().unwrap();
        match outcome {
            Ok(sent) => record.acknowledged.push((text, sent.position, Instant::now())),
            Err(_) => {
                record.unknown += 1;
                return false;
            }
        }
        true
    }
}

async fn listen(mut events: Events, record: Arc<Mutex<Record>>, heard: Arc<Notify>) {
    let mut away_since = None;
    while let Some(event) = events.recv().await {
        let mut record = record.lock().unwrap();
        match event {
            Event::State(State::Online) => {
                let away =
                    away_since.take().map_or(Duration::ZERO, |since: Instant| since.elapsed());
                record.longest_absence = record.longest_absence.max(away);
            }
            Event::State(State::Waiting { .. }) => {
                away_since.get_or_insert_with(Instant::now);
            }
            Event::Message(message) => {
                record.heard.push((message.text, message.position, Instant::now()));
            }
            Event::Gap { .. } => record.gaps += 1,
            Event::Refused { room, error } => panic!("{room} was refused: {error}"),
            _ => {}
        }
        drop(record);
        heard.notify_waiters();
    }
}
