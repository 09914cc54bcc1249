//! `tests/vectors/*.json`, which describe what a client does in any language, on the [`Machine`].
//! The README there explains their format; the JavaScript module runs the same files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use chat_core::client::{
    Action, Answer, ClientError, Config, Disconnect, Event, Machine, Message, RequestId, Resume,
    State, Token, TokenError,
};
use chat_core::{CloseReason, Content, HistoryRange, Position, PresenceChange};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors");

/// What a step may have beside its one input.
const OUTPUTS: [&str; 3] = ["wire", "events", "results"];

macro_rules! files {
    ($($file:ident),* $(,)?) => {
        const FILES: &[&str] = &[$(stringify!($file)),*];

        $(#[test]
        fn $file() {
            play_all(stringify!($file));
        })*
    };
}

files! {
    answers, connecting, endings, gaps, invented_types, joins, lost_answers, messages, news, rates,
    recovery, sends, tokens, unknown,
}

#[test]
fn no_file_is_left_out() {
    let names = std::fs::read_dir(DIRECTORY).unwrap().map(|file| file.unwrap().file_name());
    let files: BTreeSet<String> = names
        .filter_map(|name| name.to_str().unwrap().strip_suffix(".json").map(str::to_owned))
        .filter(|name| name != "setups")
        .collect();
    assert_eq!(files, FILES.iter().map(ToString::to_string).collect());
}

#[test]
fn readme_lists_each_vector() {
    let readme = std::fs::read_to_string(Path::new(DIRECTORY).join("README.md")).unwrap();
    let row = |file: &str, name: &str| format!("| `{file}` | `{name}` |");
    let listed = readme.lines().filter(|line| line.starts_with("| `") && line.contains("` | `"));
    let rows: Vec<String> = FILES
        .iter()
        .flat_map(|file| read(file).as_array().unwrap().clone().into_iter().map(move |v| (file, v)))
        .map(|(file, vector)| row(file, vector["name"].as_str().unwrap()))
        .collect();
    for row in &rows {
        assert!(readme.contains(row), "{row}");
    }
    assert_eq!(listed.count(), rows.len(), "no row without a vector");
}

#[test]
fn each_close_code_is_final_or_passing() {
    let endings = read("endings");
    for reason in CloseReason::ALL {
        let name = if reason.may_reconnect() { "passing_close_codes" } else { "final_close_codes" };
        let vector = endings.as_array().unwrap().iter().find(|vector| vector["name"] == name);
        let codes = vector.unwrap()["each"]["code"].as_array().unwrap();
        assert!(codes.contains(&json!(reason.code())), "{reason:?} is in {name}");
    }
}

fn read(file: &str) -> Value {
    let path = Path::new(DIRECTORY).join(file).with_extension("json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Plays all vectors of a file, and fails with all that differ.
fn play_all(file: &str) {
    let setups = read("setups");
    let vectors = read(file);
    let failures: Vec<String> = vectors
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|vector| {
            let steps = steps_of(vector, &setups);
            let plays = u8::try_from(vector["plays"].as_u64().unwrap_or(1)).unwrap();
            let failure =
                cases_of(vector).into_iter().find_map(|case| play(&steps, &case, plays).err());
            failure.map(|failure| format!("{}: {failure}", vector["name"]))
        })
        .collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// The steps of a setup, which may begin with another one, and then those of the vector.
fn steps_of(vector: &Value, setups: &Value) -> Vec<Value> {
    let mut steps = match vector["setup"].as_str() {
        Some(setup) => steps_of(&setups[setup], setups),
        None => Vec::new(),
    };
    steps.extend(vector["steps"].as_array().expect("the steps, or a known setup").clone());
    steps
}

/// A vector with `each` is played once for each value, under a name.
fn cases_of(vector: &Value) -> Vec<BTreeMap<String, Value>> {
    let Some(each) = vector["each"].as_object() else { return vec![BTreeMap::new()] };
    let (name, values) = each.iter().next().unwrap();
    let case = |value: &Value| BTreeMap::from([(name.clone(), value.clone())]);
    values.as_array().unwrap().iter().map(case).collect()
}

/// Plays steps in which some names are bound already, so many times.
fn play(steps: &[Value], bindings: &BTreeMap<String, Value>, plays: u8) -> Result<(), String> {
    let mut once = BTreeMap::new();
    for seed in 0..plays {
        let mut player = Player { bindings: bindings.clone(), seed, once, ..Player::default() };
        player.play(steps)?;
        once = player.once;
    }
    match once.iter().find(|(_, was_above)| !**was_above) {
        Some((step, _)) => Err(format!("step {}: never above", step + 1)),
        None => Ok(()),
    }
}

/// A machine, and what the vector knows of it.
#[derive(Default)]
struct Player {
    machine: Option<Machine>,
    now: Duration,
    /// Other random numbers for each play.
    seed: u8,
    /// The values of `$name`.
    bindings: BTreeMap<String, Value>,
    /// The calls that the vector has given a name.
    calls: BTreeMap<RequestId, String>,
    /// The outputs of the current step.
    out: Out,
    step: usize,
    /// By step, whether a number that has to be above another one once has been.
    once: BTreeMap<usize, bool>,
}

#[derive(Default)]
struct Out {
    wire: Vec<Value>,
    events: Vec<Value>,
    results: Map<String, Value>,
}

impl Player {
    fn play(&mut self, steps: &[Value]) -> Result<(), String> {
        for (index, step) in steps.iter().enumerate() {
            self.step = index;
            self.play_step(step).map_err(|why| format!("step {}, {why}", index + 1))?;
        }
        Ok(())
    }

    fn play_step(&mut self, step: &Value) -> Result<(), String> {
        let step = step.as_object().unwrap();
        let mut inputs = step.iter().filter(|(key, _)| !OUTPUTS.contains(&key.as_str()));
        let (kind, input) = inputs.next().unwrap();
        assert_eq!(inputs.next(), None, "one input");
        let input = self.filled(input);
        self.out = Out::default();
        self.take(kind, &input);
        self.compare(step).map_err(|why| format!("{kind} {input}\n  {why}"))
    }

    /// Does what a step says.
    fn take(&mut self, kind: &str, input: &Value) {
        let now = self.now;
        match kind {
            "start" => self.machine = Some(start(input, self.seed)),
            "call" => self.call(input),
            "opened" => self.machine().handle_connected(now),
            "failed" => self.machine().handle_disconnected(Disconnect::new("refused"), now),
            "closed" => {
                let code = input["code"].as_u64().map(|code| u16::try_from(code).unwrap());
                let mut loss = Disconnect::new("closed");
                loss.code = code;
                self.machine().handle_disconnected(loss, now);
            }
            // An error says that it was no frame.
            "receive" => drop(self.machine().handle_text(&input.to_string(), now)),
            "receive_text" => drop(self.machine().handle_text(input.as_str().unwrap(), now)),
            "advance_ms" => self.advance(input, |_| false),
            "await_ms" => self.advance(input, |out| !out.wire.is_empty()),
            "token" => self.machine().handle_token(Ok(input.as_str().unwrap().to_owned()), now),
            "token_failed" => {
                let error = match input.as_str().unwrap() {
                    "unauthorized" => TokenError::Unauthorized("logged out".to_owned()),
                    _ => TokenError::Retry("there is none".into()),
                };
                self.machine().handle_token(Err(error), now);
            }
            _ => panic!("no input: {kind}"),
        }
        self.poll();
    }

    fn machine(&mut self) -> &mut Machine {
        self.machine.as_mut().expect("`start` is the first step")
    }

    fn call(&mut self, call: &Value) {
        let now = self.now;
        let machine = self.machine();
        let text = |name: &str| call[name].as_str().unwrap();
        let data = || call.get("data").map(|data| serde_json::value::to_raw_value(data).unwrap());
        let key = || call["key"].as_str().map(Cow::from);
        let number = |name: &str| call[name].as_u64();
        let limit = || number("limit").map(|limit| u32::try_from(limit).unwrap());
        let request = match text("do") {
            "join" => match call.get("since") {
                Some(since) => {
                    let since = serde_json::from_value(since.clone()).unwrap();
                    machine.join_since(text("room"), since, now)
                }
                None => {
                    let history = u32::try_from(number("history").unwrap_or(0)).unwrap();
                    machine.join(text("room"), history, now)
                }
            },
            "leave" => machine.leave(text("room"), now),
            "send" => {
                let data = data();
                let mut content = Content::from(text("message"));
                (content.data, content.key) = (data.as_deref(), key());
                machine.send(text("room"), content, now)
            }
            "direct" => machine.direct(text("to"), text("message"), data().as_deref(), now),
            "members" => machine.members(text("room"), now),
            "history" => {
                let range = match (number("before"), number("after")) {
                    (Some(before), _) => HistoryRange::Before(before),
                    (None, Some(after)) => HistoryRange::After(after),
                    (None, None) => HistoryRange::Latest,
                };
                machine.history(text("room"), range, limit(), now)
            }
            "typing" => {
                return machine
                    .typing(text("room"), call["typing"].as_bool().unwrap(), now)
                    .unwrap();
            }
            "close" => return machine.close(now),
            other => panic!("no call: {other}"),
        };
        let Some(name) = call["as"].as_str() else { return };
        match request {
            Ok(request) => drop(self.calls.insert(request, name.to_owned())),
            Err(error) => {
                self.out.results.insert(name.to_owned(), json!({"error": code_of(&error)}));
            }
        }
    }

    /// Lets time pass, and stops as soon as something `is_done`.
    fn advance(&mut self, ms: &Value, is_done: impl Fn(&Out) -> bool) {
        let until = self.now + Duration::from_millis(ms.as_u64().unwrap());
        while let Some(due) = self.machine().poll_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            let now = self.now;
            self.machine().handle_timeout(now);
            self.poll();
            if is_done(&self.out) {
                return;
            }
        }
        self.now = until;
    }

    /// Takes what the machine gives.
    fn poll(&mut self) {
        let now = self.now;
        while let Some(action) = self.machine().poll_action() {
            let shown = match action {
                Action::Connect { .. } => json!({"connect": {}}),
                Action::FetchToken => json!({"ask_token": {}}),
                Action::Send(text) => json!({"send": parsed(&text)}),
                Action::Close { code } => json!({"close": {"code": code}}),
                Action::Ping => {
                    self.machine().handle_alive(now);
                    continue;
                }
                other => panic!("{other:?}"),
            };
            self.out.wire.push(shown);
        }
        while let Some(event) = self.machine().poll_event() {
            self.out.events.extend(shown_event(event));
        }
        while let Some((request, answer)) = self.machine().poll_answer() {
            let Some(name) = self.calls.remove(&request) else { continue };
            let shown = match answer {
                Ok(answer) => json!({"ok": shown_answer(answer)}),
                Err(error) => json!({"error": code_of(&error)}),
            };
            self.out.results.insert(name, shown);
        }
    }

    /// Compares the outputs with what the step expects.
    fn compare(&mut self, step: &Map<String, Value>) -> Result<(), String> {
        let Out { wire, events, results } = std::mem::take(&mut self.out);
        let lists = [("wire", wire), ("events", events)];
        let actual = lists.map(|(kind, list)| (kind, Value::from(list), json!([])));
        let results = ("results", Value::from(results), json!({}));
        for (kind, actual, nothing) in actual.into_iter().chain([results]) {
            let expected = step.get(kind).unwrap_or(&nothing);
            let is_as_long = len(&actual) == len(expected);
            if !(is_as_long && self.matches(expected, Some(&actual))) {
                return Err(format!("{kind}: {actual}\n  expected: {expected}"));
            }
        }
        Ok(())
    }

    /// An input, in which each `$name` is replaced by its value.
    fn filled(&self, value: &Value) -> Value {
        match value {
            Value::String(text) if text.starts_with('$') => self.bindings[&text[1..]].clone(),
            Value::Array(items) => items.iter().map(|item| self.filled(item)).collect(),
            Value::Object(fields) => {
                let filled = |(name, field): (&String, &Value)| (name.clone(), self.filled(field));
                fields.iter().map(filled).collect::<Map<_, _>>().into()
            }
            _ => value.clone(),
        }
    }

    fn matches(&mut self, expected: &Value, actual: Option<&Value>) -> bool {
        let present = actual.filter(|value| !value.is_null());
        match expected {
            Value::Null => present.is_none(),
            Value::String(text) if text.starts_with('$') => {
                present.is_some_and(|actual| self.binds(&text[1..], actual))
            }
            Value::Object(fields) if fields.contains_key("$null") => actual == Some(&Value::Null),
            Value::Object(fields) if fields.contains_key("$between") => {
                present.is_some_and(|actual| self.is_within(fields, actual.as_f64()))
            }
            Value::Object(fields) => present.and_then(Value::as_object).is_some_and(|others| {
                fields.iter().all(|(name, field)| self.matches(field, others.get(name)))
            }),
            Value::Array(items) => present.and_then(Value::as_array).is_some_and(|others| {
                let mut pairs = items.iter().zip(others);
                let is_as_long = items.len() == others.len();
                is_as_long && pairs.all(|(item, other)| self.matches(item, Some(other)))
            }),
            _ => Some(expected) == present,
        }
    }

    fn is_within(&mut self, range: &Map<String, Value>, actual: Option<f64>) -> bool {
        if let Some(limit) = range.get("$once_above") {
            *self.once.entry(self.step).or_default() |= actual > limit.as_f64();
        }
        let [least, most] = [0, 1].map(|end| range["$between"][end].as_f64());
        least < actual && actual <= most
    }

    /// The first value of a name is any, and the others are the same.
    fn binds(&mut self, name: &str, actual: &Value) -> bool {
        self.bindings.entry(name.to_owned()).or_insert_with(|| actual.clone()) == actual
    }
}

fn start(options: &Value, seed: u8) -> Machine {
    let mut config = Config::default();
    config.name = options["name"].as_str().map(str::to_owned);
    config.resume = options["resume"].as_str().map(Resume::new);
    config.token = options["token"].as_str().map(|token| match token {
        "asked" => Token::Fetched,
        fixed => Token::Fixed(fixed.to_owned()),
    });
    let urls = vec!["ws://chat.example/ws".to_owned()];
    Machine::new(config, urls, [seed; 32], Duration::ZERO).unwrap()
}

/// An event under the names of the protocol. `connecting` is seen on the wire.
fn shown_event(event: Event) -> Option<Value> {
    Some(match event {
        Event::State(State::Connecting { .. }) => return None,
        Event::State(state) => shown_state(state),
        Event::Joined { room, rejoined, recovered, members, can, more } => json!({
            "event": "joined", "room": room, "rejoined": rejoined, "recovered": recovered,
            "members": users(&members.users), "count": members.count, "can": can, "more": more,
        }),
        Event::Message(message) => {
            let mut shown = shown_message(message);
            shown["event"] = json!("message");
            shown
        }
        Event::Presence { room, change, user } => {
            let change = match change {
                PresenceChange::Joined => "joined",
                PresenceChange::Left => "left",
                PresenceChange::Renamed => "renamed",
                other => panic!("{other:?}"),
            };
            json!({"event": "presence", "room": room, "change": change, "user": user_of(&user)})
        }
        Event::Count { room, count } => {
            json!({"event": "presence", "room": room, "change": "count", "count": count})
        }
        Event::Gap { room, position } => placed(json!({"event": "gap", "room": room}), position),
        Event::Typing { room, user, typing } => {
            json!({"event": "typing", "room": room, "user": user_of(&user), "typing": typing})
        }
        Event::Direct { user, text, data, at } => json!({
            "event": "direct", "user": user_of(&user), "message": text, "data": raw(data), "at": at,
        }),
        Event::Capabilities { room, can } => {
            json!({"event": "capabilities", "room": room, "can": can})
        }
        Event::Undelivered { to } => json!({"event": "undelivered", "to": to}),
        Event::Goodbye { reason, reconnect, message, until, .. } => json!({
            "event": "goodbye", "reason": reason, "reconnect": reconnect, "message": message,
            "until": until,
        }),
        Event::Left { room, reason, message, until } => json!({
            "event": "left", "room": room, "reason": reason, "message": message, "until": until,
        }),
        Event::Refused { room, error } => {
            json!({"event": "refused", "room": room, "error": code_of(&error)})
        }
        Event::Error(rejection) => json!({"event": "error", "code": rejection.code}),
        other => panic!("{other:?}"),
    })
}

fn shown_state(state: State) -> Value {
    match state {
        State::Online => json!({"event": "state", "state": "online"}),
        State::Waiting { retry_in, loss } => json!({
            "event": "state", "state": "waiting", "code": loss.code,
            "retry_in_ms": retry_in.as_secs_f64() * 1_000.0,
        }),
        State::Closed { loss } => json!({"event": "state", "state": "closed", "code": loss.code}),
        other => panic!("{other:?}"),
    }
}

fn shown_answer(answer: Answer) -> Value {
    match answer {
        Answer::Joined(joined) => placed(json!({"count": joined.members.count}), joined.position),
        Answer::Left => json!({}),
        Answer::Sent(sent) => placed(json!({"key": sent.key}), sent.position),
        Answer::Direct(delivered) => json!({"delivered": delivered}),
        Answer::Members(members) => json!({"count": members.count}),
        Answer::History(page) => {
            let messages: Vec<Value> = page.messages.into_iter().map(shown_message).collect();
            placed(json!({"messages": messages, "more": page.more}), page.position)
        }
        other => panic!("{other:?}"),
    }
}

fn shown_message(message: Message) -> Value {
    let Message { room, position, user, text, data, key, at, .. } = message;
    let shown = json!({
        "room": room, "user": user_of(&user), "message": text, "data": raw(data), "key": key,
        "at": at,
    });
    placed(shown, position)
}

/// With `epoch` and `offset`, where there is a position.
fn placed(mut shown: Value, position: Option<Position>) -> Value {
    if let Some(Position { epoch, offset }) = position {
        shown["epoch"] = json!(epoch);
        shown["offset"] = json!(offset);
    }
    shown
}

fn user_of(user: &chat_core::client::User) -> Value {
    json!({"id": user.id, "name": user.name, "color": user.color})
}

fn users(users: &[chat_core::client::User]) -> Value {
    users.iter().map(user_of).collect()
}

fn raw(data: Option<Box<RawValue>>) -> Value {
    data.map_or(Value::Null, |data| parsed(data.get()))
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn len(value: &Value) -> usize {
    value.as_array().map_or_else(|| value.as_object().unwrap().len(), Vec::len)
}

fn code_of(error: &ClientError) -> &str {
    match error {
        ClientError::Offline => "offline",
        ClientError::Disconnected => "disconnected",
        ClientError::Timeout => "timeout",
        ClientError::NotInRoom => "not_in_room",
        ClientError::QueueFull => "queue_full",
        ClientError::RoomName => "room_name_invalid",
        ClientError::MessageTooLong { .. } => "message_too_long",
        ClientError::TooLarge { .. } => "too_large",
        ClientError::OtherUser => "other_user",
        ClientError::OutcomeUnknown { .. } => "outcome_unknown",
        ClientError::Closed { .. } => "closed",
        ClientError::Rejected(rejection) => &rejection.code,
        other => panic!("{other:?}"),
    }
}
