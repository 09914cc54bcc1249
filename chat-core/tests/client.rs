//! The client's machine against a server that loses frames, answers and connections.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use chat_core::client::{
    Action, Answer, ClientError, Config, Disconnect, Event, Machine, RequestId, Resume, State,
    Token,
};
use chat_core::wire::{ClientFrame, ClientRequest};
use chat_core::{Content, Epoch, Position};
use proptest::prelude::*;
use serde_json::{Value, json};

/// How many entries the room keeps.
const KEPT: usize = 8;

/// An entry of the room: the key of a message, or a type that the client does not know.
#[derive(Debug, Clone, PartialEq)]
enum Entry {
    Message(String),
    Unknown,
}

/// A server with one room, in which the client and others write.
#[derive(Default)]
struct Server {
    epoch: u64,
    entries: Vec<Entry>,
    /// Where the client is in the room, on the present connection.
    is_joined: bool,
    /// Frames on their way to the client.
    sent: VecDeque<Value>,
    lose_next_answer: bool,
}

impl Server {
    fn epoch(&self) -> Epoch {
        if self.entries.is_empty() { Epoch::NONE } else { Epoch::from_random(self.epoch) }
    }

    fn frame(&self, offset: usize) -> Value {
        let mut frame = match &self.entries[offset - 1] {
            Entry::Message(key) => json!({"type":"message","message":"hi","at":1,"key":key,
                "user":{"id":"ann","name":"Ann","color":"#B56AD9"}}),
            Entry::Unknown => json!({"type":"reaction"}),
        };
        frame["room"] = "r".into();
        frame["offset"] = offset.into();
        if offset == 1 {
            frame["epoch"] = self.epoch().as_str().into();
        }
        frame
    }

    /// Whether the client is sent the entry.
    fn publish(&mut self, entry: Entry, is_lost: bool) -> usize {
        self.entries.push(entry);
        if self.is_joined && !is_lost {
            self.sent.push_back(self.frame(self.entries.len()));
        }
        self.entries.len()
    }

    fn receive(&mut self, text: &str) {
        let frame = ClientFrame::decode(text).unwrap();
        let mut answer = match frame.request {
            ClientRequest::Hello(_) => json!({"type":"welcome","session":"s","node":"n",
                "resume":"secret","user":{"id":"ann","name":"Ann","color":"#B56AD9"},
                "limits":{"message_bytes":100,"frame_bytes":1000}}),
            ClientRequest::Join { since, .. } => self.join(since),
            ClientRequest::Send { content, .. } => {
                let entry = Entry::Message(content.key.unwrap().into_owned());
                let known = self.entries.iter().position(|known| *known == entry);
                let offset = match known {
                    Some(index) => index + 1,
                    None => self.publish(entry, self.lose_next_answer),
                };
                json!({"type":"ok","epoch":self.epoch().as_str(),"offset":offset})
            }
            other => panic!("{other:?}"),
        };
        answer["id"] = serde_json::from_str(frame.id.unwrap().get()).unwrap();
        if !std::mem::take(&mut self.lose_next_answer) {
            self.sent.push_back(answer);
        }
    }

    fn join(&mut self, since: Option<Position>) -> Value {
        self.is_joined = true;
        let top = self.entries.len();
        let oldest = top.saturating_sub(KEPT);
        let here = since.filter(|since| {
            let is_same = since.epoch == self.epoch() || *since == Position::default();
            is_same && (oldest..=top).contains(&(since.offset as usize))
        });
        let first = here.map_or(oldest, |here| here.offset as usize);
        let messages: Vec<Value> = (first + 1..=top).map(|offset| self.frame(offset)).collect();
        json!({"type":"joined","room":"r","epoch":self.epoch().as_str(),"offset":top,
            "recovered":here.is_some(),"members":[],"count":1,"messages":messages})
    }
}

#[derive(Debug, Clone)]
enum Step {
    Publish {
        is_unknown: bool,
        is_lost: bool,
    },
    Send {
        loses_answer: bool,
    },
    Disconnect,
    /// The room's storage is lost.
    Reset,
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(is_unknown, is_lost)| Step::Publish { is_unknown, is_lost }),
        3 => prop::bool::weighted(0.3).prop_map(|loses_answer| Step::Send { loses_answer }),
        2 => Just(Step::Disconnect),
        1 => Just(Step::Reset),
        2 => (0..8_000_u64).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 1..60)
}

/// A client, its server, and what its application has.
struct Run {
    machine: Machine,
    now: Duration,
    server: Server,
    is_connected: bool,
    /// The copy of the room: its position, after what was received or lost.
    copy: Position,
    /// The messages of the copy that were received.
    received: BTreeSet<(Epoch, u64)>,
    unanswered: BTreeMap<RequestId, u32>,
    sent: u32,
    succeeded: Vec<u32>,
}

impl Run {
    fn new() -> Self {
        let mut config = Config::default();
        config.send_timeout = Duration::MAX;
        Self::with(config)
    }

    fn with(config: Config) -> Self {
        let urls = vec!["ws://chat.example/ws".into()];
        let mut machine = Machine::new(config, urls, [1; 32], Duration::ZERO).unwrap();
        machine.join("r", 0, Duration::ZERO).unwrap();
        let mut run = Self {
            machine,
            now: Duration::ZERO,
            server: Server { epoch: 1, ..Server::default() },
            is_connected: false,
            copy: Position::default(),
            received: BTreeSet::new(),
            unanswered: BTreeMap::new(),
            sent: 0,
            succeeded: Vec::new(),
        };
        run.settle();
        run
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Publish { is_unknown, is_lost } => {
                let key = format!("of others {}", self.server.entries.len());
                let entry = if is_unknown { Entry::Unknown } else { Entry::Message(key) };
                self.server.publish(entry, is_lost);
            }
            Step::Send { loses_answer } => {
                self.server.lose_next_answer = loses_answer;
                let content = Content::from("hi").key(self.sent.to_string());
                let request = self.machine.send("r", content, self.now).unwrap();
                self.unanswered.insert(request, self.sent);
                self.sent += 1;
            }
            Step::Disconnect => self.disconnect(),
            Step::Reset => {
                self.server.epoch += 1;
                self.server.entries.clear();
                self.disconnect();
            }
            Step::Wait(millis) => self.wait(Duration::from_millis(millis)),
        }
        self.settle();
    }

    fn disconnect(&mut self) {
        if std::mem::take(&mut self.is_connected) {
            self.server.is_joined = false;
            self.server.sent.clear();
            self.machine.handle_disconnected(Disconnect::new("cut"), self.now);
        }
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.machine.poll_timeout().filter(|due| *due <= end) {
            self.now = due;
            self.machine.handle_timeout(due);
            self.settle();
        }
        self.now = end;
    }

    /// Carries out what the machine wants, until it wants nothing.
    fn settle(&mut self) {
        loop {
            if let Some(action) = self.machine.poll_action() {
                match action {
                    Action::Connect { .. } => {
                        self.is_connected = true;
                        self.machine.handle_connected(self.now);
                    }
                    Action::Send(text) => self.server.receive(&text),
                    Action::Ping => self.machine.handle_alive(self.now),
                    Action::Close { .. } => {
                        self.is_connected = false;
                        self.server.is_joined = false;
                        self.server.sent.clear();
                    }
                    other => panic!("{other:?}"),
                }
            } else if let Some(frame) = self.server.sent.pop_front() {
                self.machine.handle_text(&frame.to_string(), self.now).unwrap();
            } else {
                break;
            }
        }
        while let Some((request, answer)) = self.machine.poll_answer() {
            self.answered(request, answer);
        }
        while let Some(event) = self.machine.poll_event() {
            self.happened(event);
        }
    }

    fn answered(&mut self, request: RequestId, answer: Result<Answer, ClientError>) {
        match answer {
            Ok(Answer::Joined(joined)) => self.copy = joined.position.unwrap(),
            Ok(Answer::Sent(_)) => {
                self.succeeded.push(self.unanswered.remove(&request).unwrap());
            }
            other => panic!("{other:?}"),
        }
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Message(message) => {
                let position = message.position.unwrap();
                assert!(self.received.insert((position.epoch, position.offset)), "a repeat");
                assert!(position.offset > self.copy.offset, "out of order");
                let is_same = position.epoch == self.copy.epoch || self.copy == Position::default();
                assert!(is_same, "another sequence without a gap");
                self.missed_none_before(position);
                self.copy = position;
            }
            Event::Gap { position, .. } => self.copy = position.unwrap(),
            Event::State(State::Closed { loss }) => panic!("{loss}"),
            _ => {}
        }
    }

    /// Between the copy and the position are no messages, as far as the server knows them still.
    fn missed_none_before(&self, position: Position) {
        if position.epoch == self.server.epoch() {
            let missed =
                &self.server.entries[self.copy.offset as usize..position.offset as usize - 1];
            assert!(!missed.iter().any(|entry| matches!(entry, Entry::Message(_))), "{missed:?}");
        }
    }
}

#[test]
fn earlier_time_counts_as_the_latest() {
    let mut run = Run::new();
    run.wait(Duration::from_secs(60));
    run.machine.typing("r", true, run.now).unwrap();
    assert!(matches!(run.machine.poll_action(), Some(Action::Send(_))));
    run.machine.typing("r", true, Duration::ZERO).unwrap();
    assert_eq!(run.machine.poll_action(), None, "the same as a moment ago");
}

#[test]
fn grace_of_a_request_delays_no_pause() {
    let mut config = Config::default();
    config.pong_timeout = Duration::from_secs(60);
    config.check_timeout = Duration::from_secs(60);
    let mut run = Run::with(config);
    let behind_a_hole = r#"{"type":"reaction","room":"r","offset":5}"#;
    run.machine.handle_text(behind_a_hole, run.now).unwrap();
    let join = run.machine.poll_action();
    assert!(matches!(&join, Some(Action::Send(frame)) if frame.contains(r#""id":3"#)), "{join:?}");
    run.machine.members("r", run.now).unwrap();
    assert!(matches!(run.machine.poll_action(), Some(Action::Send(_))));
    let rejection = r#"{"type":"error","id":3,"code":"rate_limited","retry_after_ms":20000}"#;
    run.machine.handle_text(rejection, run.now).unwrap();
    assert_eq!(run.machine.poll_timeout(), Some(Duration::from_secs(15)), "of the members");

    run.machine.handle_timeout(Duration::from_secs(17));
    assert!(run.machine.poll_answer().is_none(), "the process did not run");
    let pause_ends = Duration::from_secs(20)..=Duration::from_secs(40);
    assert!(pause_ends.contains(&run.machine.poll_timeout().unwrap()));
}

#[test]
fn debug_hides_secrets() {
    let mut config = Config::default();
    config.token = Some(Token::Fixed("a.secret.b".to_owned()));
    config.resume = Some(Resume::new("secret"));
    let urls = vec!["ws://chat.example/ws".into()];
    let mut machine = Machine::new(config, urls, [1; 32], Duration::ZERO).unwrap();
    machine.handle_connected(Duration::ZERO);
    let mut shown = format!("{machine:?}");
    while let Some(action) = machine.poll_action() {
        shown += &format!("{action:?}");
    }
    assert!(shown.ends_with("Send(hello)"), "{shown}");
    assert!(!shown.contains("secret"), "{shown}");
    assert_eq!(format!("{:?}", Resume::new("secret")), "Resume(..)");
}

#[test]
fn loss_is_shown_with_its_close_code() {
    assert_eq!(Disconnect::new("cut").to_string(), "cut");
    assert_eq!(Disconnect::with_code(4001, "try again").to_string(), "try again (4001)");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Each message is an event once and in order, or a gap says that it is lost; each message of
    /// the client is confirmed, and in the room once, in order.
    #[test]
    fn nothing_is_lost_repeated_or_reordered(steps in steps()) {
        let mut run = Run::new();
        let mut resets = 0;
        for step in &steps {
            run.step(step);
            resets += u32::from(matches!(step, Step::Reset));
        }
        run.wait(Duration::from_secs(1200));
        // A frame that was lost as the last one is missed with the next.
        run.step(&Step::Publish { is_unknown: false, is_lost: false });
        run.wait(Duration::from_secs(60));

        let top = Position { epoch: run.server.epoch(), offset: run.server.entries.len() as u64 };
        prop_assert_eq!(run.copy, top);
        prop_assert!(run.unanswered.is_empty());
        prop_assert!(run.succeeded.is_sorted());
        prop_assert_eq!(run.succeeded.len() as u32, run.sent);
        if resets == 0 {
            let own = run.server.entries.iter().filter_map(|entry| match entry {
                Entry::Message(key) => key.parse::<u32>().ok(),
                Entry::Unknown => None,
            });
            prop_assert!(own.eq(0..run.sent));
        }
    }
}
