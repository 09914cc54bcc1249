//! The application decides on joins and messages of clients.

use std::collections::HashMap;
use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chat_broker::{HistoryRules, HubConfig};
use chat_core::{Capability, HistoryRange, RoomId, UserId};
use chat_server::{
    Action, BanOptions, Draft, HookError, Hooks, JoinAttempt, OutgoingMessage, Secret, Server,
    ServerConfig,
};
use chat_transport::testing::WsClient;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::support::{DEADLINE, ask, eventually, exchange, next_of, value_of};

/// What the test decides on one question.
type Decision = Result<(), HookError>;

/// Asks the test about each message to a room whose name begins with `asked`, and about each direct
/// message to `asked`. Other rooms and users are of no interest.
struct Asks(mpsc::UnboundedSender<Question>);

/// A message, and the way to answer it. The hook has been cancelled if that is closed.
struct Question {
    text: String,
    answer: oneshot::Sender<Decision>,
}

impl fmt::Debug for Asks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Asks")
    }
}

impl Asks {
    async fn ask(&self, draft: &mut Draft) -> Decision {
        let (answer, decision) = oneshot::channel();
        let text = draft.text().to_owned();
        self.0.send(Question { text, answer }).unwrap();
        decision.await.unwrap()
    }
}

#[async_trait]
impl Hooks for Asks {
    fn applies_to(&self, action: Action<'_>) -> bool {
        match action {
            Action::InRoom(Capability::Send, room) => room.as_str().starts_with("asked"),
            Action::Direct(to) => to.as_str() == "asked",
            _ => false,
        }
    }

    async fn before_send(&self, _: &RoomId, draft: &mut Draft) -> Decision {
        self.ask(draft).await
    }

    async fn before_direct(&self, _: &UserId, draft: &mut Draft) -> Decision {
        self.ask(draft).await
    }
}

/// Decides at once, by the text or the name of the room.
#[derive(Debug, Default)]
struct Rules {
    repeats: AtomicUsize,
}

#[async_trait]
impl Hooks for Rules {
    async fn before_join(&self, join: &JoinAttempt<'_>) -> Decision {
        assert!(join.address.is_some_and(|address| address.is_loopback()));
        match join.room.as_str() {
            "closed" => Err(HookError::denied(format!("Not you, {}.", join.user.id))),
            "slow" => pending().await,
            _ => Ok(()),
        }
    }

    async fn before_send(&self, _: &RoomId, draft: &mut Draft) -> Decision {
        match draft.text() {
            "casino" => return Err(HookError::denied("No advertising here.")),
            "down" => return Err(HookError::unavailable("no database")),
            "panic" => panic!("a hook of a test panics"),
            "never" => pending().await,
            "mask" => draft.set_text("m***"),
            "data" => draft.set_data(json!({"score": 7}))?,
            "bare" => draft.remove_data(),
            "grow" => draft.set_text("x".repeat(101)),
            "deep" => draft.set_data(json!([[[[[[[[1]]]]]]]]))?,
            "vanish" => draft.set_text(" "),
            "once" if self.repeats.fetch_add(1, Ordering::Relaxed) > 0 => {
                return Err(HookError::denied("Not twice."));
            }
            _ => {}
        }
        Ok(())
    }

    async fn before_direct(&self, to: &UserId, draft: &mut Draft) -> Decision {
        if draft.text() == "psst" {
            draft.set_text(format!("for {to}"));
        }
        Ok(())
    }
}

struct Node {
    server: Server,
    port: u16,
    serving: AbortHandle,
}

impl Node {
    async fn start(config: ServerConfig, hooks: impl Hooks) -> Self {
        let server = Server::builder().config(config).hooks(hooks).start();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = server.clone();
        let serving = tokio::spawn(async move { serving.serve(vec![listener], pending()).await });
        Self { server, port, serving: serving.abort_handle() }
    }

    async fn asking(config: ServerConfig) -> (Self, Questions) {
        let (asks, questions) = mpsc::unbounded_channel();
        (Self::start(config, Asks(asks)).await, Questions(questions))
    }

    async fn client(&self, user: &str) -> WsClient {
        let url = format!("ws://127.0.0.1:{}/ws?userId={user}", self.port);
        let mut client =
            WsClient::connect_with(&url, &[("Sec-WebSocket-Protocol", "chat.v1")]).await;
        ask(&mut client, "welcome", json!({"type": "hello"})).await;
        client
    }

    /// A client of the dialect whose senders need not be members.
    async fn topics(&self, user: &str) -> WsClient {
        WsClient::connect(&format!("ws://127.0.0.1:{}/ws?userId={user}", self.port)).await
    }

    async fn member(&self, user: &str, rooms: &[&str]) -> WsClient {
        let mut client = self.client(user).await;
        for room in rooms {
            ask(&mut client, "joined", json!({"type": "join", "room": room})).await;
        }
        client
    }

    fn room(&self, name: &str) -> chat_server::RoomHandle {
        self.server.room(&RoomId::new(name).unwrap())
    }

    async fn texts(&self, room: &str) -> Vec<String> {
        let page = self.room(room).history(HistoryRange::Latest, 256).await.unwrap();
        page.messages.iter().map(|message| message.text.to_string()).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

struct Questions(mpsc::UnboundedReceiver<Question>);

impl Questions {
    async fn next(&mut self) -> Question {
        timeout(DEADLINE, self.0.recv()).await.expect("a question").unwrap()
    }

    /// The next questions, by their texts.
    async fn collect(&mut self, count: usize) -> HashMap<String, oneshot::Sender<Decision>> {
        let mut all = HashMap::new();
        while all.len() < count {
            let Question { text, answer } = self.next().await;
            all.insert(text, answer);
        }
        all
    }
}

fn config() -> ServerConfig {
    ServerConfig::default()
        .hook_timeout(Duration::from_secs(60))
        .hub(HubConfig::default().history(HistoryRules::default()))
}

fn said(room: &str, text: &str) -> Value {
    json!({"type": "send", "id": text, "room": room, "message": text})
}

fn published(room: &str, text: &str) -> Value {
    json!({"type": "sendMessage", "roomId": room, "message": text})
}

/// The next answer to a request: its id, and the code if it is an error.
async fn answer(client: &mut WsClient) -> (String, Option<String>) {
    loop {
        let frame = client.recv_json().await;
        if frame["type"] == "ok" || frame["type"] == "error" {
            let code = frame["code"].as_str().map(str::to_owned);
            return (frame["id"].as_str().unwrap_or_default().to_owned(), code);
        }
    }
}

async fn code(client: &mut WsClient, frame: Value) -> String {
    ask(client, "error", frame).await["code"].as_str().unwrap().to_owned()
}

/// Waits until the server has handled all earlier frames of the client.
async fn settled(client: &mut WsClient) {
    ask(client, "pong", json!({"type": "ping"})).await;
}

/// Waits until the server has dropped the question.
async fn cancelled(answer: &mut oneshot::Sender<Decision>) {
    timeout(DEADLINE, answer.closed()).await.expect("the question is cancelled");
}

fn allow(answer: oneshot::Sender<Decision>) {
    answer.send(Ok(())).unwrap();
}

#[tokio::test]
async fn messages_keep_the_order_of_their_sender() {
    let (node, mut questions) = Node::asking(config()).await;
    let rooms = ["asked-1", "free", "asked-2"];
    let mut ann = node.member("ann", &rooms).await;
    let mut asked = node.client("asked").await;
    // 3, then 7, then … of 48 messages: answered in an order of its own in each round.
    for step in [1_usize, 5, 7, 11] {
        let mut names = Vec::new();
        for n in 0..48 {
            let name = format!("{step}-{n:02}");
            match n % 4 {
                3 => {
                    ann.send_json(
                        &json!({"type": "direct", "id": name, "to": "asked", "message": name}),
                    )
                    .await
                }
                place => ann.send_json(&said(rooms[place], &name)).await,
            }
            names.push(name);
        }
        let mut pending = questions.collect(36).await;
        for index in 0..names.len() {
            if let Some(answer) = pending.remove(&names[index * step * 5 % 48]) {
                allow(answer);
            }
        }
        for (_, answer) in pending {
            allow(answer);
        }
        for name in &names {
            assert_eq!(answer(&mut ann).await, (name.clone(), None));
        }
        let to_asked = names.iter().skip(3).step_by(4);
        for name in to_asked {
            assert_eq!(next_of(&mut asked, "direct").await["message"], **name);
        }
    }
    for (place, room) in rooms.iter().enumerate() {
        let texts = node.texts(room).await;
        let step = |text: &String| text[text.len() - 2..].parse::<usize>().unwrap();
        assert_eq!(texts.len(), 48, "{texts:?}");
        assert!(texts.chunks(12).all(|round| round.iter().map(step).is_sorted()), "{texts:?}");
        assert!(texts.iter().all(|text| step(text) % 4 == place), "{texts:?}");
    }
}

#[tokio::test]
async fn message_to_a_free_room_waits_for_those_before_it_and_other_senders_do_not() {
    let (node, mut questions) = Node::asking(config()).await;
    let mut ann = node.member("ann", &["asked", "free"]).await;
    let mut bob = node.member("bob", &["free"]).await;
    ann.send_json(&said("asked", "one")).await;
    ann.send_json(&said("free", "two")).await;
    settled(&mut ann).await;
    ask(&mut bob, "ok", said("free", "of bob")).await;
    assert_eq!(node.texts("free").await, ["of bob"]);
    allow(questions.next().await.answer);
    assert_eq!(answer(&mut ann).await.0, "one");
    assert_eq!(answer(&mut ann).await.0, "two");
    assert_eq!(node.texts("free").await, ["of bob", "two"]);
    // Nothing is held any more.
    ask(&mut ann, "ok", said("free", "three")).await;
}

#[tokio::test]
async fn socket_is_not_read_while_max_in_flight_messages_are_undecided() {
    let (node, mut questions) = Node::asking(config().max_in_flight(4)).await;
    let mut ann = node.member("ann", &["asked"]).await;
    for n in 0..6 {
        ann.send_json(&said("asked", &n.to_string())).await;
    }
    let mut first = questions.collect(4).await;
    let bob = node.member("bob", &["asked"]).await;
    assert!(questions.0.try_recv().is_err(), "a fifth is asked about");
    allow(first.remove("0").unwrap());
    assert_eq!(questions.next().await.text, "4");
    drop(bob);
}

#[tokio::test]
async fn denied_message_is_rejected_in_the_words_of_the_hook() {
    let node = Node::start(config(), Rules::default()).await;
    let mut ann = node.member("ann", &["r"]).await;
    let error = ask(&mut ann, "error", said("r", "casino")).await;
    let expected = json!({
        "type": "error", "id": "casino", "code": "rejected", "message": "No advertising here."
    });
    assert_eq!(error, expected);
    ask(&mut ann, "ok", said("r", "hi")).await;
    assert_eq!(node.texts("r").await, ["hi"]);
    node.room("r").send("casino").await.expect("the application is not asked about its own");

    let mut other = node.topics("bob").await;
    other.send_json(&published("r", "casino")).await;
    assert_eq!(next_of(&mut other, "error").await["code"], "rejected", "in another dialect");
}

#[tokio::test]
async fn hook_changes_text_and_data() {
    let node = Node::start(config(), Rules::default()).await;
    let mut ann = node.member("ann", &["r"]).await;
    let mut bob = node.client("bob").await;
    let mut of = async |text: &str, data: Value| {
        let mut frame = said("r", text);
        frame["data"] = data;
        ann.send_json(&frame).await;
        let message = next_of(&mut ann, "message").await;
        (message["message"].clone(), message["data"].clone())
    };
    assert_eq!(of("mask", json!([1])).await, (json!("m***"), json!([1])));
    assert_eq!(of("data", json!([1])).await, (json!("data"), json!({"score": 7})));
    assert_eq!(of("bare", json!([1])).await, (json!("bare"), json!(null)));
    assert_eq!(of("plain", json!([1])).await, (json!("plain"), json!([1])));
    for (sent, received) in [("psst", "for bob"), ("plain", "plain")] {
        let direct = json!({"type": "direct", "id": 1, "to": "bob", "message": sent, "data": 2});
        assert_eq!(ask(&mut ann, "ok", direct).await["delivered"], 1);
        let message = next_of(&mut bob, "direct").await;
        assert_eq!((&message["message"], &message["data"]), (&json!(received), &json!(2)));
    }
}

#[tokio::test]
async fn what_a_hook_made_is_checked_again() {
    let mut config = config().max_message_bytes(100);
    config.limits = config.limits.json_depth(8);
    let node = Node::start(config, Rules::default()).await;
    let mut ann = node.member("ann", &["r"]).await;
    assert_eq!(code(&mut ann, said("r", "grow")).await, "message_too_long");
    assert_eq!(code(&mut ann, said("r", "deep")).await, "bad_json");
    assert_eq!(code(&mut ann, said("r", "vanish")).await, "bad_field");
    assert_eq!(node.texts("r").await, Vec::<String>::new());
}

#[tokio::test]
async fn failure_of_a_hook_rejects_one_message() {
    let short = config().hook_timeout(Duration::from_millis(50));
    let node = Node::start(short, Rules::default()).await;
    let mut ann = node.member("ann", &["r"]).await;
    for (text, expected) in
        [("never", "hook_unavailable"), ("down", "hook_unavailable"), ("panic", "internal")]
    {
        ann.send_json(&said("r", text)).await;
        ann.send_json(&said("r", "hi")).await;
        let error = next_of(&mut ann, "error").await;
        assert_eq!((&error["id"], &error["code"]), (&json!(text), &json!(expected)), "{error}");
        assert_eq!(error["retry_after_ms"].is_number(), expected == "hook_unavailable");
        assert_eq!(answer(&mut ann).await, ("hi".to_owned(), None));
    }
    assert_eq!(node.texts("r").await, ["hi", "hi", "hi"]);

    let get = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let (_, _, page) = exchange(node.port, get).await;
    let count = |outcome: &str| {
        let name = format!("chat_hooks_total{{hook=\"before_send\",outcome=\"{outcome}\"}}");
        value_of::<u64>(&page, &name)
    };
    assert_eq!(["timeout", "unavailable", "panicked"].map(count), [Some(1); 3], "{page}");
    assert_eq!(count("allowed"), Some(3), "{page}");
    let asked = value_of::<u64>(&page, "chat_hook_seconds_count");
    assert_eq!(asked, Some(7), "a join, and six messages: {page}");
}

#[tokio::test]
async fn message_of_a_user_who_was_banned_or_left_while_asked_about_is_rejected() {
    let (node, mut questions) = Node::asking(config()).await;
    let mut ann = node.member("ann", &["asked-1", "asked-2", "asked-3"]).await;
    for room in ["asked-1", "asked-2", "asked-3"] {
        ann.send_json(&said(room, room)).await;
    }
    let answers = questions.collect(3).await;
    let ann_id = UserId::new("ann").unwrap();
    node.room("asked-1").ban(&ann_id, BanOptions::default()).await.unwrap();
    node.room("asked-2").kick(&ann_id, None).await.unwrap();
    ann.send_json(&json!({"type": "leave", "room": "asked-3"})).await;
    settled(&mut ann).await;
    for (_, answer) in answers {
        allow(answer);
    }
    for room in ["asked-1", "asked-2", "asked-3"] {
        let rejected = (room.to_owned(), Some("not_in_room".to_owned()));
        assert_eq!(answer(&mut ann).await, rejected);
        assert_eq!(node.texts(room).await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn ban_applies_to_a_message_of_a_sender_who_is_no_member() {
    let (node, mut questions) = Node::asking(config()).await;
    let mut guest = node.topics("guest").await;
    guest.send_json(&published("asked", "hi")).await;
    let Question { answer, .. } = questions.next().await;
    let guest_id = UserId::new("guest").unwrap();
    node.room("asked").ban(&guest_id, BanOptions::default()).await.unwrap();
    allow(answer);
    assert_eq!(next_of(&mut guest, "error").await["code"], "forbidden");
    assert_eq!(node.texts("asked").await, Vec::<String>::new());
}

#[tokio::test]
async fn user_who_is_banned_from_the_server_publishes_nothing_more() {
    let (node, mut questions) = Node::asking(config()).await;
    let mut ann = node.member("ann", &["asked"]).await;
    ann.send_json(&said("asked", "one")).await;
    let mut asked = questions.next().await;
    let ann_id = UserId::new("ann").unwrap();
    node.server.user(&ann_id).ban(BanOptions::default()).await.unwrap();
    cancelled(&mut asked.answer).await;
    assert_eq!(node.texts("asked").await, Vec::<String>::new());
}

#[tokio::test]
async fn end_of_a_connection_cancels_its_questions() {
    let (node, mut questions) = Node::asking(config()).await;
    let mut ann = node.member("ann", &["asked"]).await;
    for text in ["one", "two"] {
        ann.send_json(&said("asked", text)).await;
    }
    let answers = questions.collect(2).await;
    drop(ann);
    for (_, mut answer) in answers {
        cancelled(&mut answer).await;
    }
    assert_eq!(node.texts("asked").await, Vec::<String>::new());
}

#[tokio::test]
async fn drain_does_not_wait_for_hooks() {
    let config = config().drain_timeout(Duration::from_secs(60)).drain_spread(Duration::ZERO);
    let (node, mut questions) = Node::asking(config).await;
    let mut ann = node.member("ann", &["asked"]).await;
    ann.send_json(&said("asked", "one")).await;
    let Question { answer: mut undecided, .. } = questions.next().await;
    timeout(DEADLINE, node.server.shutdown()).await.unwrap();
    next_of(&mut ann, "goodbye").await;
    cancelled(&mut undecided).await;
    assert_eq!(ann.recv_until_close().await.1.0, 1001);
}

#[tokio::test]
async fn hook_decides_on_joins() {
    let short = config().hook_timeout(Duration::from_millis(50));
    let node = Node::start(short, Rules::default()).await;
    let mut ann = node.member("ann", &["r"]).await;
    let denied = ask(&mut ann, "error", json!({"type": "join", "id": 3, "room": "closed"})).await;
    let expected =
        json!({"type": "error", "id": 3, "code": "rejected", "message": "Not you, ann."});
    assert_eq!(denied, expected);
    assert_eq!(code(&mut ann, said("closed", "hi")).await, "not_in_room");
    assert_eq!(node.room("closed").members().await.unwrap().count, 0);
    // The answer to an earlier request does not wait for the decision.
    ann.send_json(&said("r", "hi")).await;
    ann.send_json(&json!({"type": "join", "id": "j", "room": "slow"})).await;
    assert_eq!(answer(&mut ann).await, ("hi".to_owned(), None));
    assert_eq!(answer(&mut ann).await, ("j".to_owned(), Some("hook_unavailable".to_owned())));
    // A member joins again without a question.
    ask(&mut ann, "joined", json!({"type": "join", "room": "r"})).await;

    let url = format!("ws://127.0.0.1:{}/join-room/closed", node.port);
    let mut guest = WsClient::connect(&url).await;
    assert_eq!(next_of(&mut guest, "error").await["code"], "rejected");
}

#[tokio::test]
async fn hook_is_not_asked_about_a_join_by_a_backend() {
    let config = config().api_key(Some(Secret::new("a key for backends")));
    let node = Node::start(config, Rules::default()).await;
    let mut ann = node.client("ann").await;
    settled(&mut ann).await;
    let body = r#"{"user":"ann"}"#;
    let post = format!(
        "POST /api/rooms/closed/join HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer a key for backends\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    // The server begins to take requests in a task of its own.
    eventually("the client is made to join", async || {
        assert_eq!(exchange(node.port, &post).await.0, 200);
        node.room("closed").members().await.unwrap().count == 1
    })
    .await;
    assert_eq!(next_of(&mut ann, "joined").await["room"], "closed");
}

#[tokio::test]
async fn ban_during_the_question_before_a_join_is_enforced() {
    #[derive(Debug)]
    struct AsksToJoin(Arc<Mutex<Option<oneshot::Sender<oneshot::Sender<()>>>>>);
    #[async_trait]
    impl Hooks for AsksToJoin {
        async fn before_join(&self, _: &JoinAttempt<'_>) -> Decision {
            let asked = self.0.lock().take();
            let (answer, decision) = oneshot::channel();
            asked.unwrap().send(answer).unwrap();
            decision.await.map_err(|_| HookError::unavailable("the test is over"))
        }
    }
    let (asked, question) = oneshot::channel();
    let node = Node::start(config(), AsksToJoin(Arc::new(Mutex::new(Some(asked))))).await;
    let mut ann = node.client("ann").await;
    ann.send_json(&json!({"type": "join", "room": "r"})).await;
    let answer = question.await.unwrap();
    let ann_id = UserId::new("ann").unwrap();
    node.room("r").ban(&ann_id, BanOptions::default()).await.unwrap();
    answer.send(()).unwrap();
    assert_eq!(next_of(&mut ann, "error").await["code"], "banned");
}

#[tokio::test]
async fn repeated_message_gets_its_first_answer_though_the_hook_denies_it_now() {
    let node = Node::start(config(), Rules::default()).await;
    let mut ann = node.member("ann", &["r"]).await;
    let mut frame = said("r", "once");
    frame["key"] = json!("k");
    let first = ask(&mut ann, "ok", frame.clone()).await;
    assert_eq!(ask(&mut ann, "ok", frame.clone()).await, first);
    frame["key"] = json!("another");
    assert_eq!(code(&mut ann, frame.clone()).await, "rejected");
    frame["key"] = json!("k");
    let mut bob = node.member("bob", &["r"]).await;
    assert_eq!(code(&mut bob, frame).await, "rejected", "keys belong to their users");
    assert_eq!(node.texts("r").await, ["once"]);
    let application = OutgoingMessage::new("once").key("k");
    assert!(!node.room("r").send(application).await.unwrap().repeated);
}
