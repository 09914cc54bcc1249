//! 100 members of five rooms, who write to each other while attackers attack.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::trial::Tokens;
use crate::support::DEADLINE;
use crate::support::raw::{Frame, Raw};

const ROOMS: usize = 5;

/// Of each room.
const SIZE: usize = 20;

pub(crate) const MEMBERS: usize = ROOMS * SIZE;

/// Between two messages of a room, from different members: each sends one in five seconds.
const PACE: Duration = Duration::from_millis(250);

/// How much a line of 20 Mbit/s brings in a second, in bytes.
const SLOW_LINE: u32 = 2_500_000;

/// What the texts of members begin with.
const MARK: &str = "from a member";

/// The room of the `n`th attacker's choice.
pub(crate) fn room_name(n: usize) -> String {
    format!("members-{}", n % ROOMS)
}

pub(crate) struct Members {
    rooms: Vec<Arc<Room>>,
    tasks: JoinSet<()>,
    /// The user id of the member on a slow line, or of any.
    pub(crate) victim: String,
}

struct Room {
    name: String,
    is_over: AtomicBool,
    /// When each message was handed to its sender's connection; its place is its key.
    sent: Mutex<Vec<Instant>>,
    /// The offset of each message that a member has received: the same for all.
    offsets: Mutex<HashMap<usize, u64>>,
    latencies: Mutex<Vec<Duration>>,
    presence_events: AtomicU64,
}

impl Members {
    /// Has them all join and begin.
    pub(crate) async fn start(port: u16, tokens: Option<&Tokens>, has_slow: bool) -> Self {
        let (mut rooms, mut tasks, mut victim) = (Vec::new(), JoinSet::new(), None);
        for nth in 0..ROOMS {
            let room = Arc::new(Room::new(room_name(nth)));
            let mut senders = Vec::new();
            for n in 0..SIZE {
                let is_slow = has_slow && nth == 0 && n == 0;
                let token = tokens.map(|tokens| tokens.user(nth * SIZE + n));
                let (member, user) = Member::join(port, Arc::clone(&room), is_slow, token).await;
                victim.get_or_insert(user);
                let (sender, requests) = mpsc::channel(16);
                senders.push(sender);
                tasks.spawn(member.run(requests));
            }
            // The slow one only receives: what it sends later than it should is not the server's.
            let first = usize::from(has_slow && nth == 0);
            tasks.spawn(write(Arc::clone(&room), senders, first));
            rooms.push(room);
        }
        Self { rooms, tasks, victim: victim.expect("a member") }
    }

    /// How they are served for so long.
    pub(crate) async fn served_for(&self, time: Duration) -> Service {
        self.rooms.iter().for_each(|room| room.latencies.lock().unwrap().clear());
        sleep(time).await;
        Service::of(self.rooms.iter().flat_map(|room| room.latencies.lock().unwrap().clone()))
    }

    pub(crate) fn presence_events(&self) -> u64 {
        self.rooms.iter().map(|room| room.presence_events.load(Ordering::Relaxed)).sum()
    }

    /// They send no more; every message has reached each of them.
    pub(crate) async fn finish(mut self) {
        self.rooms.iter().for_each(|room| room.is_over.store(true, Ordering::Relaxed));
        let all = async {
            while let Some(task) = self.tasks.join_next().await {
                task.expect("a member was not served");
            }
        };
        timeout(3 * DEADLINE, all).await.expect("a member waits for a message");
    }
}

impl Room {
    fn new(name: String) -> Self {
        Self {
            name,
            is_over: AtomicBool::new(false),
            sent: Mutex::default(),
            offsets: Mutex::default(),
            latencies: Mutex::default(),
            presence_events: AtomicU64::new(0),
        }
    }

    fn count(&self) -> usize {
        self.sent.lock().unwrap().len()
    }
}

/// Has one member after the other send, from the `first` on, until it is over.
async fn write(room: Arc<Room>, senders: Vec<mpsc::Sender<Value>>, first: usize) {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for (n, sender) in senders[first..].iter().cycle().enumerate() {
        pace.tick().await;
        if room.is_over.load(Ordering::Relaxed) {
            return;
        }
        let send = json!({
            "type": "send", "room": room.name, "message": format!("{MARK} {n}"), "key": n.to_string(),
        });
        room.sent.lock().unwrap().push(Instant::now());
        sender.send(send).await.expect("the connection is there");
    }
}

struct Member {
    raw: Raw,
    room: Arc<Room>,
    /// Where its copy of the room ends.
    offset: u64,
    is_slow: bool,
    received: usize,
}

impl Member {
    /// A member, and its user id.
    async fn join(
        port: u16,
        room: Arc<Room>,
        is_slow: bool,
        token: Option<String>,
    ) -> (Self, String) {
        let mut raw = match is_slow {
            true => Raw::connect_narrow(port).await,
            false => Raw::connect(port).await.expect("a connection"),
        };
        let hello = json!({"type": "hello", "token": token});
        let welcome = raw.ask("welcome", &hello).await.expect("welcome");
        let user = welcome["user"]["id"].as_str().expect("an id").to_owned();
        let join = json!({"type": "join", "room": room.name});
        let joined = raw.ask("joined", &join).await.expect("joined");
        let offset = joined["offset"].as_u64().expect("a position");
        (Self { raw, room, offset, is_slow, received: 0 }, user)
    }

    /// Sends what it is to, and receives, until nobody sends any more and it has received all.
    async fn run(mut self, mut requests: mpsc::Receiver<Value>) {
        let mut is_over = false;
        while !is_over || self.received < self.room.count() {
            tokio::select! {
                request = requests.recv(), if !is_over => match request {
                    Some(request) => assert!(self.raw.send(&request).await, "the send failed"),
                    None => is_over = true,
                },
                frame = self.raw.next() => match frame {
                    Some(Frame::Text(text)) => self.on_frame(&text).await,
                    other => panic!("a member of {} was closed: {other:?}", self.room.name),
                },
            }
        }
    }

    async fn on_frame(&mut self, text: &[u8]) {
        let now = Instant::now();
        if let Some(offset) = offset_of(text) {
            assert_eq!(offset, self.offset + 1, "a hole in {}", self.room.name);
            self.offset = offset;
            self.on_message(offset, text, now);
        } else if text.starts_with(br#"{"type":"presence""#) {
            self.room.presence_events.fetch_add(1, Ordering::Relaxed);
        } else {
            let frame: Value = serde_json::from_slice(text).expect("JSON");
            let kind = frame["type"].as_str().expect("a type");
            assert!(["ok", "direct", "typing"].contains(&kind), "{frame}");
        }
        if self.is_slow {
            sleep(Duration::from_secs(1) * text.len() as u32 / SLOW_LINE).await;
        }
    }

    fn on_message(&mut self, offset: u64, text: &[u8], now: Instant) {
        // To parse those of attackers would slow this process more than the attack the server.
        let head = String::from_utf8_lossy(&text[..text.len().min(250)]);
        if !head.contains(MARK) {
            return;
        }
        let frame: Value = serde_json::from_slice(text).expect("JSON");
        let n: usize = frame["key"].as_str().and_then(|key| key.parse().ok()).expect("a key");
        let first = *self.room.offsets.lock().unwrap().entry(n).or_insert(offset);
        assert_eq!(first, offset, "two orders in {}", self.room.name);
        self.received += 1;
        // A slow line is slow by itself.
        if !self.is_slow {
            let sent = self.room.sent.lock().unwrap()[n];
            self.room.latencies.lock().unwrap().push(now - sent);
        }
    }
}

/// The offset of a frame that is a message.
fn offset_of(text: &[u8]) -> Option<u64> {
    const OFFSET: &str = r#","offset":"#;
    let head = text.strip_prefix(br#"{"type":"message","room":""#)?;
    let head = String::from_utf8_lossy(&head[..head.len().min(100)]);
    let digits = head.split_once(OFFSET)?.1;
    digits.split(|next: char| !next.is_ascii_digit()).next()?.parse().ok()
}

/// From sending to each receipt.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    /// The shortest first.
    latencies: Vec<Duration>,
}

impl Service {
    fn of(latencies: impl Iterator<Item = Duration>) -> Self {
        let mut latencies: Vec<_> = latencies.collect();
        assert!(!latencies.is_empty(), "no member received anything");
        latencies.sort_unstable();
        Self { latencies }
    }

    /// This part of the messages took no longer.
    pub(crate) fn within(&self, part: f64) -> Duration {
        let nth = (self.latencies.len() as f64 * part).ceil() as usize;
        self.latencies[nth.max(1) - 1]
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [half, most] = [0.5, 0.99].map(|part| self.within(part).as_secs_f64() * 1e3);
        write!(f, "{half:.1}/{most:.1} ms")
    }
}
