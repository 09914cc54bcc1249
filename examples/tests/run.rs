//! Every example runs and does what it says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use chat_broker::testing::{RedisServer, TcpProxy};
use chat_transport::client::{Client, ClientConfig, Event, Events, PresenceChange, User};
use chat_transport::testing::WsClient;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Its own unit test is the point of this one.
#[allow(dead_code, reason = "as an example it has a main")]
#[path = "../unit_test.rs"]
mod with_unit_test;

#[allow(dead_code, reason = "as an example it has a main")]
#[path = "../hub_without_sockets.rs"]
mod hub_with_unit_test;

#[allow(dead_code, reason = "as an example it has a main")]
#[path = "../lobby.rs"]
mod lobby_with_unit_test;

/// The tests that the suite makes of it run here.
#[allow(dead_code, reason = "as an example it has a main")]
#[path = "../custom_broker.rs"]
mod custom_broker_tests;

/// Cargo builds the examples beside this test.
fn example(name: &str) -> Command {
    let test = std::env::current_exe().expect("a path");
    let target: PathBuf =
        test.ancestors().nth(2).expect("target/debug").join("examples").join(name);
    let mut command = Command::new(target);
    command.env_remove("REDIS_URL").env("PORT", "0").stdout(Stdio::piped());
    command
}

fn output(name: &str) -> String {
    let output = example(name).output().expect("the example starts");
    assert!(output.status.success(), "{name}: {:?}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

/// A server that is killed when the test is over.
struct Running(Child, String);

impl Running {
    fn start(name: &str) -> Self {
        Self::of(example(name))
    }

    /// Starts an example and reads the address that it prints.
    fn of(mut example: Command) -> Self {
        let mut child = example.spawn().expect("the example starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit("//").next().unwrap().trim_end_matches('/').to_owned();
        Self(child, address)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn hub_without_sockets() {
    let output = output("hub_without_sockets");
    assert!(output.starts_with("message 1 is taken\n"), "{output}");
    assert!(output.contains(": is anybody here?\nmembers now: 0\n"), "{output}");
    assert!(output.ends_with(": you missed this\n"), "{output}");
}

#[test]
fn bus() {
    assert_eq!(
        output("bus"),
        "received: order 1 is paid\nreceived: order 2 is paid\n\
         published 3, a repeat: false\npublished 4, a repeat: false\npublished 4, a repeat: true\n\
         received: order 3 is paid\nreceived: order 4 is paid\nreceived: order 5 is paid\n"
    );
}

/// Kills the process, which the other does not notice; it misses nothing.
#[test]
fn follow() {
    let redis = RedisServer::start();
    let file = std::env::temp_dir().join(format!("follow-{}.position", std::process::id()));
    let run = |arguments: &[&str]| {
        let mut command = example("follow");
        command.args(arguments).env("REDIS_URL", redis.url()).env("POSITION_FILE", &file);
        command.spawn().expect("the example starts")
    };
    let publish = |id: &str| {
        let status = run(&["publish", id, "order", id, "is", "paid"]).wait().unwrap();
        assert!(status.success(), "{status:?}");
    };
    // The orders that a follower processes, up to this one; then it is killed.
    let processed_up_to = |last: &str| {
        let mut follower = Running(run(&[]), String::new());
        let lines = BufReader::new(follower.0.stdout.take().unwrap()).lines();
        let mut orders = Vec::new();
        for line in lines {
            orders.push(line.unwrap());
            if orders.last().unwrap() == &format!("processed: order {last} is paid") {
                break;
            }
        }
        orders.len()
    };
    ["1", "2"].into_iter().for_each(publish);
    assert_eq!(processed_up_to("2"), 2);
    ["3", "3", "4"].into_iter().for_each(publish);
    // Order 2 is repeated if the follower was killed before it had saved the position.
    assert!((2..=3).contains(&processed_up_to("4")));
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn custom_broker() {
    assert_eq!(output("custom_broker"), "received b\"hello\"\n");
}

#[test]
fn unit_test() {
    assert_eq!(output("unit_test"), "reported\n");
}

#[test]
fn two_servers() {
    let output = output("two_servers");
    assert!(
        output.contains("Bob, on B, receives {\"type\":\"chat\",\"sender\":\"Alice\""),
        "{output}"
    );
}

/// A server in this process, until the sender is used.
async fn serve(listener: TcpListener) -> (oneshot::Sender<()>, JoinHandle<()>) {
    let (stop, stopped) = oneshot::channel();
    let server = chat_server::Server::builder().start();
    let serving = async move {
        let stopped = async { drop(stopped.await) };
        server.serve(vec![listener], stopped).await;
    };
    (stop, tokio::spawn(serving))
}

/// Waits until the bot is in the room.
async fn until_bot_is_in(events: &mut Events) {
    let is_bot = |user: &User| user.name == "Echo";
    loop {
        match events.recv().await.expect("another event") {
            Event::Joined { members, .. } if members.users.iter().any(is_bot) => return,
            Event::Presence { change: PresenceChange::Joined, user, .. } if is_bot(&user) => return,
            _ => {}
        }
    }
}

#[tokio::test]
async fn bot() {
    let listen = async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    };
    let (mut listener, port) = listen().await;
    // It keeps its port. That of a server that has ended may be another program's by the restart.
    let proxy = TcpProxy::start(port);
    let url = format!("ws://127.0.0.1:{}/ws", proxy.port());
    let child = example("bot").arg(&url).spawn().expect("the example starts");
    let _bot = Running(child, url.clone());
    let (client, mut events) = Client::connect([url], ClientConfig::default()).unwrap();
    let talk = async {
        for text in ["hello", "hello after a restart"] {
            let (stop, served) = serve(listener).await;
            client.join("lobby", 0).await.unwrap();
            until_bot_is_in(&mut events).await;
            client.send("lobby", text).await.unwrap();
            let answer = loop {
                match events.message().await.expect("another message") {
                    message if message.is_own => {}
                    message => break message,
                }
            };
            assert_eq!((&*answer.user.name, &*answer.text), ("Echo", text));
            stop.send(()).unwrap();
            served.await.unwrap();
            let (next, port) = listen().await;
            proxy.redirect(port);
            listener = next;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), talk).await.expect("the bot answers in time");
}

#[test]
fn client() {
    let mut child = example("client").stdin(Stdio::piped()).spawn().expect("the example starts");
    child.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{:?}", output.status);
    let output = String::from_utf8(output.stdout).expect("text");
    assert!(output.contains("* in lobby, 1 there\n"), "{output}");
    assert!(output.contains("* that was message 1\n"), "{output}");
}

/// Behind a line on which the handshake takes longer than the client waits for a frame.
#[test]
fn client_own_transport() {
    let server = Running::start("axum_server");
    let port = server.1.rsplit(':').next().unwrap().parse().expect("a port");
    let proxy = TcpProxy::start(port);
    proxy.delay(Duration::from_millis(100));
    let url = format!("ws://127.0.0.1:{}/chat/ws", proxy.port());
    let output = example("client_own_transport").arg(url).output().expect("the example starts");
    assert!(output.status.success(), "{:?}", output.status);
    let output = String::from_utf8(output.stdout).expect("text");
    assert!(output.contains("Joined { room: \"lobby\", rejoined: false"), "{output}");
    assert!(output.contains("text: \"hello\""), "{output}");
}

#[tokio::test]
async fn echo_session() {
    let server = Running::start("echo_session");
    let mut client = WsClient::connect(&format!("ws://{}/", server.1)).await;
    client.send("héllo").await;
    client.expect("héllo").await;
    let large = vec![7; 16 << 20];
    client.send_binary(large.clone()).await;
    assert_eq!(client.recv_binary().await, large);
}

/// The next frame of this type; other frames before it are skipped.
async fn next_of(kind: &str, client: &mut WsClient) -> serde_json::Value {
    loop {
        let frame = client.recv_json().await;
        if frame["type"] == kind {
            return frame;
        }
    }
}

/// What an HTTP server answers.
fn get(address: &str, path: &str) -> String {
    request(address, "GET", path)
}

fn request(address: &str, method: &str, path: &str) -> String {
    request_with(address, method, path, "")
}

/// As `request`, with a line of the head.
fn request_with(address: &str, method: &str, path: &str, line: &str) -> String {
    let mut page = TcpStream::connect(address).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n");
    write!(page, "{head}{line}Connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    page.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn axum_server() {
    let mut server = Running::start("axum_server");
    assert!(get(&server.1, "/").ends_with("an application of your own\n"));
    assert!(get(&server.1, "/chat").contains("text/html"));
    assert!(get(&server.1, "/chat/readyz").contains(" 404 "));

    let url = format!("ws://{}/chat/ws", server.1);
    let mut client = WsClient::connect_with(&url, &[("Sec-WebSocket-Protocol", "chat.v1")]).await;
    client.send(r#"{"type":"hello"}"#).await;
    assert_eq!(client.recv_json().await["limits"]["message_bytes"], 4096);
    client.send(r#"{"type":"join","room":"order-7"}"#).await;
    next_of("joined", &mut client).await;
    for _ in 0..2 {
        assert!(request(&server.1, "POST", "/orders/order-7/paid").contains(" 200 "));
    }
    let paid = next_of("message", &mut client).await;
    assert_eq!((&paid["message"], &paid["offset"]), (&"Your order is paid.".into(), &1.into()));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    assert!(now - paid["at"].as_u64().unwrap() < 60_000, "{paid}");

    let id = server.0.id().to_string();
    assert!(Command::new("kill").args(["-s", "INT", &id]).status().unwrap().success());
    assert_eq!(client.recv_json().await["type"], "goodbye");
    assert_eq!(client.recv_close().await.0, 1001);
    assert!(server.0.wait().unwrap().success());
}

#[tokio::test]
async fn authenticator() {
    let server = Running::start("authenticator");
    let connect = async |key: &str| {
        let url = format!("ws://{}/ws?token={key}", server.1);
        WsClient::connect_with(&url, &[("Sec-WebSocket-Protocol", "chat.v1")]).await
    };
    let (mut ann, mut bob) = (connect("key-of-ann").await, connect("key-of-bob").await);
    for client in [&mut ann, &mut bob] {
        client.send(r#"{"type":"join","room":"news"}"#).await;
        next_of("joined", client).await;
    }
    let news = r#"{"type":"send","room":"news","message":"hello","key":"1"}"#;
    bob.send(news).await;
    assert_eq!(next_of("error", &mut bob).await["code"], "forbidden");
    ann.send(news).await;
    let frame = next_of("message", &mut bob).await;
    assert_eq!((&frame["user"]["name"], &frame["message"]), (&"Ann".into(), &"hello".into()));

    let url = format!("ws://{}/ws?token=nobody", server.1);
    assert_eq!(WsClient::try_connect(&url, &[]).await.unwrap_err().as_u16(), 401);
}

/// The cookie of the user at a support desk.
fn log_in(user: &str, address: &str) -> Option<String> {
    let answer = request(address, "POST", &format!("/login/{user}"));
    let cookie = answer.lines().find_map(|line| line.strip_prefix("set-cookie: "));
    cookie.map(|cookie| cookie.split(';').next().unwrap().to_owned())
}

async fn connect_to_desk(address: &str, cookie: &str) -> Result<WsClient, StatusCode> {
    let headers = [("Sec-WebSocket-Protocol", "chat.v1"), ("Cookie", cookie)];
    WsClient::try_connect(&format!("ws://{address}/chat/ws"), &headers).await
}

#[tokio::test]
async fn support_desk() {
    let server = Running::start("support_desk");
    let connect = async |cookie: &str| connect_to_desk(&server.1, cookie).await;
    assert_eq!(log_in("eve", &server.1), None);
    let [ann, sam] = ["ann", "sam"].map(|user| log_in(user, &server.1).unwrap());
    assert_eq!(connect("session=guessed").await.unwrap_err().as_u16(), 401);
    let (mut customer, mut staff) = (connect(&ann).await.unwrap(), connect(&sam).await.unwrap());
    customer.send(r#"{"type":"join","room":"order-8"}"#).await;
    assert_eq!(next_of("error", &mut customer).await["code"], "forbidden");
    for client in [&mut customer, &mut staff] {
        client.send(r#"{"type":"join","room":"order-7"}"#).await;
        next_of("joined", client).await;
    }
    staff.send(r#"{"type":"send","room":"order-7","message":"Hello Ann"}"#).await;
    assert_eq!(next_of("message", &mut customer).await["user"]["name"], "Sam");
    customer.send(r#"{"type":"send","room":"order-7","message":"try my casino"}"#).await;
    assert_eq!(next_of("error", &mut customer).await["message"], "No advertising here.");
    customer.send(r#"{"type":"send","room":"order-7","message":"1234 5678 1234 5678"}"#).await;
    assert_eq!(next_of("message", &mut customer).await["message"], "(a card number)");
    for _ in 0..2 {
        assert!(request(&server.1, "POST", "/orders/order-7/paid").contains(" 200 "));
    }
    assert_eq!(next_of("message", &mut customer).await["user"]["id"], "@server");

    let page = get(&server.1, "/orders/order-7");
    let page: serde_json::Value =
        serde_json::from_str(page.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let texts: Vec<_> =
        page["messages"].as_array().unwrap().iter().map(|one| &one["message"]).collect();
    assert_eq!(texts, ["Hello Ann", "(a card number)", "Your order is paid."]);
    assert_eq!(page["members"].as_array().unwrap().len(), 2);

    let logout = request_with(&server.1, "POST", "/logout", &format!("Cookie: {ann}\r\n"));
    assert!(logout.contains(" 200 "), "{logout}");
    assert_eq!(next_of("goodbye", &mut customer).await["message"], "logged out");
    assert_eq!(connect(&ann).await.unwrap_err().as_u16(), 401);
    assert!(get(&server.1, "/chat/metrics").contains(" 404 "));
}

/// A customer in the archived room.
async fn customer_of(desk: &Running) -> WsClient {
    let cookie = log_in("ann", &desk.1).unwrap();
    let mut customer = connect_to_desk(&desk.1, &cookie).await.unwrap();
    customer.send(r#"{"type":"join","room":"order-7"}"#).await;
    next_of("joined", &mut customer).await;
    customer
}

async fn say(text: &str, customer: &mut WsClient) {
    customer.send(&format!(r#"{{"type":"send","room":"order-7","message":"{text}"}}"#)).await;
    next_of("message", customer).await;
}

/// Waits until the archive has these texts, and no others; `None` is a gap.
async fn until_archived(texts: &[Option<&str>], file: &Path) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let database = rusqlite::Connection::open(file).unwrap();
        let mut rows = database.prepare("SELECT text FROM archive ORDER BY id").unwrap();
        let archived = rows.query_map([], |row| row.get::<_, Option<String>>(0)).unwrap();
        let archived: Vec<_> = archived.map(Result::unwrap).collect();
        if archived.iter().map(Option::as_deref).eq(texts.iter().copied()) {
            return;
        }
        assert!(archived.len() < texts.len() && Instant::now() < deadline, "{archived:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The archiver is killed twice. First another process of the shop continues to serve the room in
/// Redis; then the room, in memory, begins again.
#[tokio::test]
async fn support_desk_archives_each_message_once() {
    let redis = RedisServer::start();
    let file = std::env::temp_dir().join(format!("archive-{}.sqlite", std::process::id()));
    let desk = || {
        let mut command = example("support_desk");
        command.env("REDIS_URL", redis.url());
        command
    };
    let archiver = |mut desk: Command| {
        desk.env("ARCHIVE_FILE", &file);
        Running::of(desk)
    };
    let other = Running::of(desk());
    let mut customer = customer_of(&other).await;
    say("one", &mut customer).await;
    let first = archiver(desk());
    say("two", &mut customer).await;
    until_archived(&[Some("one"), Some("two")], &file).await;
    drop(first);

    say("three", &mut customer).await;
    let second = archiver(desk());
    say("four", &mut customer).await;
    let all = ["one", "two", "three", "four"].map(Some);
    until_archived(&all, &file).await;
    drop(second);

    let alone = archiver(example("support_desk"));
    say("five", &mut customer_of(&alone).await).await;
    until_archived(&[&all[..], &[None, Some("five")]].concat(), &file).await;
    drop(alone);
    std::fs::remove_file(&file).unwrap();
}

#[tokio::test]
async fn lobby() {
    let server = Running::start("lobby");
    let connect =
        async |player: &str| WsClient::connect(&format!("ws://{}/chess?{player}", server.1)).await;
    let mut players = Vec::new();
    for n in 0..8 {
        let mut player = connect(&format!("player{n}")).await;
        // A player that receives its own remark has joined.
        player.send("hello").await;
        while player.recv().await != "hello" {}
        players.push(player);
    }
    let mut ninth = connect("ninth").await;
    assert_eq!(ninth.recv_close().await.0, 4100);
    players[0].send_binary(vec![7, 9]).await;
    assert_eq!(players[7].recv_binary().await, vec![7, 9]);
}

#[tokio::test]
async fn axum_hub() {
    let server = Running::start("axum_hub");
    assert!(get(&server.1, "/").ends_with("an application of your own\n"));

    let room = format!("ws://{}/live/lobby", server.1);
    let (mut ann, mut bob) = (WsClient::connect(&room).await, WsClient::connect(&room).await);
    // A client that receives its own line is in the room.
    bob.send("bob is here").await;
    assert!(bob.recv().await.ends_with(".1 bob is here"));
    ann.send("hello").await;
    let line = bob.recv().await;
    assert!(line.ends_with(".2 hello"), "{line}");

    // A client that was offline gets what it missed, and then live messages.
    let position = line.split_once(' ').unwrap().0.to_owned();
    bob.close().await;
    for n in 0..200 {
        ann.send(&format!("missed {n}")).await;
    }
    let mut bob = WsClient::connect(&format!("{room}?since={position}")).await;
    for n in 0..200 {
        assert!(bob.recv().await.ends_with(&format!(" missed {n}")));
    }
    ann.send("welcome back").await;
    assert!(bob.recv().await.ends_with(" welcome back"));

    // A client with a position in another sequence gets a gap.
    let mut eve = WsClient::connect(&format!("{room}?since=00000000.7")).await;
    assert_eq!(eve.recv().await, "some lines are lost");
}
