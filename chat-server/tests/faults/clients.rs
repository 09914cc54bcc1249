//! Thousands of clients that go from server to server as they are told, and go on where they
//! were.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chat_core::Epoch;
use chat_transport::client::Position;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::support::eventually;
use crate::support::raw::{AGAIN, Frame, Raw};
use crate::support::verdict::Record;

/// Between two messages of a speaker, at least.
const PACE: Duration = Duration::from_millis(200);

/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(100);

/// How long after the loss of a connection the last client is back.
const JITTER: Duration = Duration::from_secs(1);

/// How long anything may take in the end.
const PATIENCE: Duration = Duration::from_secs(60);

/// What became of one client.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClientRecord {
    pub(crate) talk: Record,
    /// Each time that it was in the room.
    pub(crate) stays: Vec<Stay>,
    unanswered: bool,
}

/// One connection of a client.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stay {
    /// When it came to the server.
    pub(crate) came: Option<Instant>,
    /// How long it had been in no room.
    pub(crate) away: Duration,
    pub(crate) recovered: bool,
    /// From the server's goodbye.
    pub(crate) after: Option<Duration>,
    pub(crate) code: Option<u16>,
}

/// Where servers are: others may take their places.
pub(crate) type Ports = Arc<Mutex<Vec<u16>>>;

pub(crate) struct ClientFleet {
    records: Vec<Arc<Mutex<ClientRecord>>>,
    /// How many of the records, from the first, are those of speakers.
    speakers: usize,
    tasks: Vec<JoinHandle<()>>,
    talking: watch::Sender<bool>,
}

impl ClientFleet {
    /// All join their rooms at the first server; the first in each room is a speaker.
    pub(crate) async fn join(clients: usize, rooms: usize, ports: &Ports) -> Self {
        Self::start(clients, rooms, ports, |_| 0).await
    }

    /// As [`join`](Self::join), at all servers by turns, in each room.
    pub(crate) async fn spread(clients: usize, rooms: usize, ports: &Ports) -> Self {
        Self::start(clients, rooms, ports, |n| n / rooms).await
    }

    async fn start(
        clients: usize,
        rooms: usize,
        ports: &Ports,
        at: impl Fn(usize) -> usize,
    ) -> Self {
        let (talking, talk) = watch::channel(false);
        let mut fleet = Self { records: Vec::new(), speakers: rooms, tasks: Vec::new(), talking };
        let door = Arc::new(Semaphore::new(200));
        for n in 0..clients {
            let room = format!("room-{}", n % rooms);
            let record = Arc::new(Mutex::new(ClientRecord {
                talk: Record { room, ..Record::default() },
                ..ClientRecord::default()
            }));
            fleet.records.push(Arc::clone(&record));
            let roamer = Roamer {
                n,
                ports: Arc::clone(ports),
                at: at(n),
                room: format!("room-{}", n % rooms),
                speaks: n < rooms,
                resume: None,
                place: Position::default(),
                said: 0,
                say_again: None,
                record,
                talk: talk.clone(),
            };
            fleet.tasks.push(tokio::spawn(roamer.run(Arc::clone(&door))));
        }
        fleet.until_stays(1).await;
        fleet
    }

    pub(crate) fn talk(&self) {
        self.talking.send_replace(true);
    }

    /// Waits until everybody has been in the room so many times.
    pub(crate) async fn until_stays(&self, least: usize) {
        let all = async || self.all(|record| record.stays.len() >= least);
        eventually("all clients to be in their rooms", all).await;
    }

    /// Waits until each speaker has been acknowledged so many messages.
    pub(crate) async fn until_acknowledged(&self, least: usize) {
        let speakers = &self.records[..self.speakers];
        eventually("messages of all speakers", async || {
            speakers.iter().all(|record| record.lock().unwrap().talk.acknowledged.len() >= least)
        })
        .await;
    }

    /// Waits until somebody was told to go.
    pub(crate) async fn until_told(&self) {
        let some =
            async || !self.all(|record| record.stays.iter().all(|stay| stay.after.is_none()));
        eventually("a goodbye", some).await;
    }

    /// Nobody says anything more; returns when everybody has heard all that was
    /// acknowledged, or has had enough time for it.
    pub(crate) async fn finish(&self) -> Vec<ClientRecord> {
        self.talking.send_replace(false);
        eventually("answers", async || self.all(|record| !record.unanswered)).await;
        let mut said: HashMap<String, usize> = HashMap::new();
        for record in &self.records {
            let record = record.lock().unwrap();
            *said.entry(record.talk.room.clone()).or_default() += record.talk.acknowledged.len();
        }
        let heard = async {
            while !self.all(|record| record.talk.heard.len() >= said[&record.talk.room]) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        // What is still missing is lost.
        let _ = timeout(PATIENCE, heard).await;
        self.records.iter().map(|record| record.lock().unwrap().clone()).collect()
    }

    fn all(&self, is_so: impl Fn(&ClientRecord) -> bool) -> bool {
        self.records.iter().all(|record| is_so(&record.lock().unwrap()))
    }
}

impl Drop for ClientFleet {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

struct Roamer {
    n: usize,
    ports: Ports,
    /// Which of the servers it is at.
    at: usize,
    room: String,
    speaks: bool,
    resume: Option<String>,
    place: Position,
    /// The number of its latest message.
    said: u64,
    /// When to say that again.
    say_again: Option<Instant>,
    record: Arc<Mutex<ClientRecord>>,
    talk: watch::Receiver<bool>,
}

/// The frames that matter here.
#[derive(Debug, Deserialize)]
struct ReceivedFrame {
    #[serde(rename = "type")]
    kind: String,
    epoch: Option<String>,
    offset: Option<u64>,
    #[serde(default)]
    recovered: bool,
    #[serde(default)]
    messages: Vec<ReceivedFrame>,
    message: Option<String>,
    after_ms: Option<u64>,
    code: Option<String>,
}

impl Roamer {
    async fn run(mut self, door: Arc<Semaphore>) {
        let mut turn = Some(door.acquire_owned().await.unwrap());
        let mut left = Instant::now();
        loop {
            let mut raw = self.connect().await;
            let came = Instant::now();
            if self.enter(&mut raw, came, left).await.is_some() {
                drop(turn.take());
                self.stay(&mut raw).await;
                left = Instant::now();
            }
            drop(raw);
            sleep(self.pause()).await;
            self.at += 1;
        }
    }

    /// To the next server that takes it.
    async fn connect(&mut self) -> Raw {
        loop {
            let port = {
                let ports = self.ports.lock().unwrap();
                ports[self.at % ports.len()]
            };
            match Raw::connect(port).await {
                Ok(raw) => return raw,
                Err(_) => sleep(PAUSE).await,
            }
            self.at += 1;
        }
    }

    /// Into its room, from where it was.
    async fn enter(&mut self, raw: &mut Raw, came: Instant, left: Instant) -> Option<()> {
        let name = format!("client-{}", self.n);
        let hello = json!({"type": "hello", "name": name, "resume": self.resume});
        let welcome = raw.ask("welcome", &hello).await?;
        self.resume = welcome["resume"].as_str().map(str::to_owned).or(self.resume.take());
        let is_back = !self.record.lock().unwrap().stays.is_empty();
        let since = is_back.then_some(self.place);
        let join = json!({"type": "join", "room": self.room, "since": since});
        let joined = raw.ask("joined", &join).await?;
        let joined: ReceivedFrame = serde_json::from_value(joined).unwrap();
        let (recovered, away) = (joined.recovered, left.elapsed());
        if !is_back {
            self.place = self.position_of(&joined);
        }
        for message in joined.messages {
            self.receive(message);
        }
        let stay = Stay { came: Some(came), away, recovered, ..Stay::default() };
        self.record.lock().unwrap().stays.push(stay);
        Some(())
    }

    /// Until the connection ends.
    async fn stay(&mut self, raw: &mut Raw) {
        self.say_again = self.record.lock().unwrap().unanswered.then(Instant::now);
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let frame = tokio::select! {
                frame = raw.next() => frame,
                _ = pace.tick(), if self.speaks => {
                    self.speak(raw).await;
                    continue;
                }
            };
            match frame {
                Some(Frame::Text(text)) => self.on_text(&text),
                Some(Frame::Close(code)) => {
                    return self.record.lock().unwrap().stays.last_mut().unwrap().code = Some(code);
                }
                None => return,
            }
        }
    }

    /// Says its latest message again if that has to be, or the next one if it is time.
    async fn speak(&mut self, raw: &mut Raw) {
        if self.say_again.is_some_and(|at| at <= Instant::now()) {
            self.say_again = None;
        } else if !self.record.lock().unwrap().unanswered && *self.talk.borrow() {
            self.said += 1;
            self.record.lock().unwrap().unanswered = true;
        } else {
            return;
        }
        let text = self.text();
        raw.send(&json!({"type": "send", "room": self.room, "message": text, "key": text})).await;
    }

    fn text(&self) -> String {
        format!("client-{} {}", self.n, self.said)
    }

    fn on_text(&mut self, text: &[u8]) {
        let frame: ReceivedFrame = serde_json::from_slice(text).unwrap();
        match frame.kind.as_str() {
            "message" => self.receive(frame),
            "ok" => {
                let place = self.position_of(&frame);
                let mut record = self.record.lock().unwrap();
                record.talk.acknowledged.push((self.text(), Some(place), Instant::now()));
                record.unanswered = false;
            }
            "gap" => {
                self.record.lock().unwrap().talk.gaps += 1;
                self.place = self.position_of(&frame);
            }
            "goodbye" => {
                let after = frame.after_ms.map(Duration::from_millis);
                self.record.lock().unwrap().stays.last_mut().unwrap().after = after;
            }
            "error" => {
                assert_eq!(frame.code.as_deref(), Some("broker_unavailable"));
                self.say_again = Some(Instant::now() + AGAIN);
            }
            "presence" => {}
            other => panic!("{other}: {}", String::from_utf8_lossy(text)),
        }
    }

    fn receive(&mut self, message: ReceivedFrame) {
        self.place = self.position_of(&message);
        let heard = (message.message.expect("a text"), Some(self.place), Instant::now());
        self.record.lock().unwrap().talk.heard.push(heard);
    }

    fn position_of(&self, frame: &ReceivedFrame) -> Position {
        let epoch = frame.epoch.as_deref().filter(|epoch| !epoch.is_empty());
        let epoch = epoch.map_or(self.place.epoch, |epoch| Epoch::parse(epoch.as_bytes()).unwrap());
        Position { epoch, offset: frame.offset.expect("an offset") }
    }

    /// Before it comes back: as it was told, or a while that is its own.
    fn pause(&self) -> Duration {
        let after = self.record.lock().unwrap().stays.last().and_then(|stay| stay.after);
        after.unwrap_or_else(|| JITTER.mul_f64((self.n as f64 * 0.618).fract()))
    }
}
