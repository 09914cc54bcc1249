//! People who say numbered messages, and keep what they hear.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chat_transport::testing::WsClient;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::pause;
use super::verdict::{ENOUGH, Verdict};
use crate::support::{Chat, DEADLINE, next_of};

/// Between two messages of one.
const PACE: Duration = Duration::from_millis(100);

/// Between two attempts to say what was refused.
const RETRY: Duration = Duration::from_millis(300);

/// How long everybody may take to hear everything in the end, and who was told of a gap.
const PATIENCE: Duration = Duration::from_secs(20);
const PATIENCE_WITH_GAPS: Duration = Duration::from_secs(2);

/// What one has said and received.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) name: String,
    pub(super) room: String,
    /// Where the room stood when it joined.
    pub(super) place: u64,
    pub(super) acked: Vec<String>,
    /// When each was.
    pub(super) acked_at: Vec<Instant>,
    /// Answers that the message bus did not take it.
    pub(super) refused: usize,
    /// Messages and gaps in the order in which they came.
    pub(super) received: Vec<Received>,
    /// The longest time from a send to its answer, and from a ping.
    pub(super) longest_answer: Duration,
    pub(super) longest_pong: Duration,
}

#[derive(Debug)]
pub(super) enum Received {
    /// The epoch stands in the first message of one; without history there is no offset.
    Message {
        text: String,
        epoch: Option<String>,
        offset: Option<u64>,
    },
    Gap {
        offset: Option<u64>,
    },
}

/// What all know.
#[derive(Debug, Default)]
struct Board {
    /// Who still has something to say.
    talking: AtomicUsize,
    /// By room.
    acked: Mutex<HashMap<String, HashSet<String>>>,
    /// When each member was acknowledged something, the last time.
    latest: Mutex<HashMap<String, Instant>>,
}

/// What all are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Listen,
    Talk,
    End,
}

pub(super) struct Crowd {
    members: Vec<JoinHandle<Record>>,
    board: Arc<Board>,
    phase: watch::Sender<Phase>,
    pace: Duration,
    hurries: bool,
}

impl Crowd {
    /// Nobody yet.
    pub(super) fn new() -> Self {
        let phase = watch::Sender::new(Phase::Listen);
        Self { members: Vec::new(), board: Arc::default(), phase, pace: PACE, hurries: false }
    }

    /// Two on each of these servers, who all meet in the room "r", and talk.
    pub(super) async fn on(servers: &[&Chat]) -> Self {
        Self::new().talking_on(servers).await
    }

    /// As [`on`](Self::on), of people who make no pause.
    pub(super) async fn in_a_hurry_on(servers: &[&Chat]) -> Self {
        Self { hurries: true, ..Self::new() }.talking_on(servers).await
    }

    /// Nobody yet; so many are going to send so many messages a second together.
    pub(super) fn paced(members: u32, messages: u32) -> Self {
        Self { pace: Duration::from_secs(1) * members / messages, ..Self::new() }
    }

    async fn talking_on(mut self, servers: &[&Chat]) -> Self {
        for server in servers {
            self.join(server, "r", true).await;
            self.join(server, "r", false).await;
        }
        self.begin();
        self
    }

    /// Everybody is there.
    pub(super) fn begin(&self) {
        self.phase.send_replace(Phase::Talk);
    }

    /// One more. With keys a message that was refused is said again until
    /// it is taken; without, its outcome is unknown.
    pub(super) async fn join(&mut self, server: &Chat, room: &str, keyed: bool) {
        let mut client = server.native().await;
        client.send_json(&json!({"type": "join", "room": room})).await;
        let joined = next_of(&mut client, "joined").await;
        let place = joined["offset"].as_u64().unwrap_or_default();
        let name = format!("m{}", self.members.len());
        let member = Member {
            client,
            record: Record { name, room: room.to_owned(), place, ..Record::default() },
            keyed,
            pace: self.pace,
            hurries: self.hurries,
            number: 0,
            sending: None,
            pinged: None,
        };
        self.board.talking.fetch_add(1, Ordering::SeqCst);
        let (board, phase) = (Arc::clone(&self.board), self.phase.subscribe());
        self.members.push(tokio::spawn(member.live(board, phase)));
    }

    /// Waits until everybody was acknowledged something after this moment, and enough was said
    /// in each room to be judged.
    pub(super) async fn until_all_said_since(&self, moment: Instant) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let latest = self.board.latest.lock().unwrap().clone();
            let since = latest.values().filter(|at| **at >= moment).count();
            let is_enough =
                self.board.acked.lock().unwrap().values().all(|acked| acked.len() >= ENOUGH);
            if since == self.members.len() && is_enough {
                return;
            }
            assert!(Instant::now() < deadline, "{since} of {} go on", self.members.len());
            pause(Duration::from_millis(20)).await;
        }
    }

    /// Nobody says anything new; returns when everybody has received all that was acknowledged,
    /// or has had enough time for it. What happened ended at `ended`.
    pub(super) async fn finish(self, ended: Instant) -> Verdict {
        Verdict::of(&self.records().await, ended)
    }

    /// As [`finish`](Self::finish), for each room.
    pub(super) async fn finish_by_room(self, ended: Instant) -> HashMap<String, Verdict> {
        let mut rooms: HashMap<String, Vec<Record>> = HashMap::new();
        for record in self.records().await {
            rooms.entry(record.room.clone()).or_default().push(record);
        }
        let verdict = |(room, records): (_, Vec<_>)| (room, Verdict::of(&records, ended));
        rooms.into_iter().map(verdict).collect()
    }

    async fn records(self) -> Vec<Record> {
        self.phase.send_replace(Phase::End);
        let mut records = Vec::new();
        for member in self.members {
            records.push(member.await.expect("nobody is disconnected"));
        }
        records
    }
}

struct Member {
    client: WsClient,
    record: Record,
    keyed: bool,
    pace: Duration,
    /// It says the next thing as soon as the last one is answered.
    hurries: bool,
    number: u64,
    sending: Option<Sending>,
    pinged: Option<Instant>,
}

/// A message that is not answered.
struct Sending {
    text: String,
    /// `None` while it waits to be said again.
    since: Option<Instant>,
    again: Instant,
}

impl Member {
    async fn live(mut self, board: Arc<Board>, phase: watch::Receiver<Phase>) -> Record {
        let mut tick = interval(self.pace);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ended = None;
        loop {
            tokio::select! {
                frame = self.client.recv_json() => {
                    self.take(&frame, &board);
                    if self.hurries {
                        let phase = *phase.borrow();
                        self.say(phase).await;
                    }
                }
                _ = tick.tick() => {
                    self.ping().await;
                    let phase = *phase.borrow();
                    self.say(phase).await;
                    if phase == Phase::End && ended.is_none() && self.sending.is_none() {
                        ended = Some(Instant::now());
                        board.talking.fetch_sub(1, Ordering::SeqCst);
                    }
                    if ended.is_some_and(|since| self.is_through(&board, since)) {
                        return self.record;
                    }
                }
            }
        }
    }

    /// The server answers, whatever Redis does.
    async fn ping(&mut self) {
        if self.pinged.is_none() {
            self.pinged = Some(Instant::now());
            self.client.send_json(&json!({"type": "ping"})).await;
        }
    }

    async fn say(&mut self, phase: Phase) {
        let now = Instant::now();
        let sending = match &mut self.sending {
            Some(sending) if sending.since.is_some() || now < sending.again => return,
            Some(sending) => sending,
            None if phase != Phase::Talk => return,
            None => {
                self.number += 1;
                let text = format!("{} {}", self.record.name, self.number);
                self.sending.insert(Sending { text, since: None, again: now })
            }
        };
        sending.since = Some(now);
        let room = &self.record.room;
        let mut frame = json!({"type": "send", "room": room, "message": sending.text, "id": "s"});
        if self.keyed {
            frame["key"] = self.number.to_string().into();
        }
        self.client.send_json(&frame).await;
    }

    fn take(&mut self, frame: &Value, board: &Board) {
        match frame["type"].as_str() {
            Some("message") => self.record.received.push(Received::Message {
                text: frame["message"].as_str().expect("a text").to_owned(),
                epoch: frame["epoch"].as_str().map(str::to_owned),
                offset: frame["offset"].as_u64(),
            }),
            Some("gap") => {
                self.record.received.push(Received::Gap { offset: frame["offset"].as_u64() })
            }
            Some("pong") => {
                let since = self.pinged.take().expect("a ping").elapsed();
                self.record.longest_pong = self.record.longest_pong.max(since);
            }
            Some("ok" | "error") => self.answered(frame, board),
            _ => {}
        }
    }

    fn answered(&mut self, frame: &Value, board: &Board) {
        let mut sending = self.sending.take().expect("an answer to something");
        let since = sending.since.take().expect("it was said");
        self.record.longest_answer = self.record.longest_answer.max(since.elapsed());
        if frame["type"] == "ok" {
            let mut acked = board.acked.lock().unwrap();
            acked.entry(self.record.room.clone()).or_default().insert(sending.text.clone());
            self.record.acked.push(sending.text);
            let now = Instant::now();
            self.record.acked_at.push(now);
            board.latest.lock().unwrap().insert(self.record.name.clone(), now);
            return;
        }
        assert_eq!(frame["code"], "broker_unavailable", "{frame}");
        self.record.refused += 1;
        if self.keyed {
            sending.again = Instant::now() + RETRY;
            self.sending = Some(sending);
        }
    }

    /// Whether all have said all, and this one has received it or waited long enough.
    fn is_through(&self, board: &Board, since: Instant) -> bool {
        if since.elapsed() > PATIENCE {
            return true;
        }
        if board.talking.load(Ordering::SeqCst) > 0 {
            return false;
        }
        let acked = board.acked.lock().unwrap();
        let Some(acked) = acked.get(&self.record.room) else { return true };
        let (mut received, mut is_told) = (0, false);
        for event in &self.record.received {
            match event {
                Received::Message { text, .. } => received += usize::from(acked.contains(text)),
                Received::Gap { .. } => is_told = true,
            }
        }
        received >= acked.len() || is_told && since.elapsed() > PATIENCE_WITH_GAPS
    }
}
