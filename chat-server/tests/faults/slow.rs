//! Clients that do not read what they asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chat_broker::testing::RedisServer;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::{aside, long};
use crate::support::control_clients::ControlClients;
use crate::support::process::Process;
use crate::support::raw::{Frame, Raw};
use crate::support::{Chat, FAST, alone, ask, command, eventually, join, say};

const TEXT: usize = 16 * 1024;

/// How many KiB a server may grow by that holds what waits for so many: one outbox (1 MiB, which
/// is what `--outbox-bytes` is by default) and what an allocator keeps; or, as what waits is
/// shared, the outboxes of those who are behind by the most, and a little for each.
const fn bound_kib(slow: usize) -> u64 {
    if slow == 1 { (1 + 8) * 1024 } else { 24 * 1024 + slow as u64 * 64 }
}

/// How many of the slow ones come back for the rest.
const BACK: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_is_cut_alone_and_goes_on_where_it_was() {
    among(1, 5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_slow_readers_as_good_ones_cost_the_good_ones_nothing() {
    let each = if long() { 500 } else { 100 };
    among(each, each).await;
}

/// So many who do not read, or hardly, and so many who do, in one busy room.
async fn among(slow: usize, good: usize) {
    let _alone = alone().await;
    let redis = RedisServer::start();
    let args = ["--history", "4000", "--history-bytes", "100000000", "--presence-limit", "4"];
    let [server] = Chat::several::<1>(&redis, &args).await;
    let (wake, asleep) = watch::channel(false);
    let mut slow_ones = Vec::new();
    for n in 0..slow {
        let raw = enter(Raw::connect_narrow(server.port()).await).await;
        // Some take a little all the time: nobody can say that they do not read.
        let bytes_per_second = if n % 2 == 0 { 0 } else { 1024 };
        slow_ones.push(tokio::spawn(read_slowly(raw, bytes_per_second, asleep.clone())));
    }
    let heard = Arc::<AtomicU64>::default();
    let mut good_ones: Vec<JoinHandle<()>> = Vec::new();
    for _ in 0..good {
        let raw = enter(Raw::connect(server.port()).await.unwrap()).await;
        good_ones.push(tokio::spawn(read_all(raw, Arc::clone(&heard))));
    }
    let control_clients = aside(ControlClients::at(server.port()));
    let quiet = control_clients.quiet().await;
    let process = Process(server.pid());
    let before = process.rss_kib();
    let mut writer = enter(Raw::connect(server.port()).await.unwrap()).await;
    let text = "x".repeat(TEXT);
    let send = json!({"type": "send", "room": "r", "message": text});
    let (mut said, mut most) = (0_u64, 0);
    while server.metric("chat_slow_consumers_total").await < slow as u64 {
        assert!(said < 3_000, "not cut after {said} messages");
        for _ in 0..10 {
            let ok = writer.ask("ok", &send).await.expect("the writer is not cut");
            said = ok["offset"].as_u64().unwrap();
        }
        most = most.max(process.rss_kib());
    }
    // They are woken at once: the server waits for its close frame to be taken.
    wake.send_replace(true);
    let grown = most.saturating_sub(before);
    let served = control_clients.were_served().await;
    server.until_metric("chat_closed_total{code=\"4000\"}", |now| now >= slow as u64).await;
    eventually("the good ones to have heard all", async || {
        heard.load(Ordering::Relaxed) == said * good as u64
    })
    .await;
    assert!(good_ones.iter().all(|reader| !reader.is_finished()), "a good reader was cut");
    say(&format!(
        "{slow} slow among {good} good ones: {said} messages of {} KiB, RSS {grown} KiB more; \
         control_clients: {served}; before: {quiet}",
        TEXT / 1024
    ));
    assert!(grown < bound_kib(slow), "{grown} KiB more");
    served.is_no_slower_than(&quiet);

    let mut codes = Vec::new();
    for (n, reader) in slow_ones.into_iter().enumerate() {
        let (place, code) = reader.await.expect("nothing is lost before the cut");
        codes.push(code);
        if n < BACK {
            goes_on(&server, place, said).await;
        }
    }
    let told = codes.iter().filter(|code| **code == Some(4000)).count();
    say(&format!("{told} of {slow} read the close code 4000"));
    assert!(codes.iter().flatten().all(|code| *code == 4000), "{codes:?}");
    // A client that takes too little even for the close frame is reset.
    assert!(2 * told > slow, "{told} of {slow} were told");
    good_ones.iter().for_each(JoinHandle::abort);
}

async fn enter(mut raw: Raw) -> Raw {
    raw.ask("joined", &json!({"type": "join", "room": "r"})).await.expect("a joined frame");
    raw
}

/// Takes `bytes_per_second` bytes a second until it is woken, then all: its place, and the close code.
async fn read_slowly(
    mut raw: Raw,
    bytes_per_second: usize,
    mut asleep: watch::Receiver<bool>,
) -> (u64, Option<u16>) {
    while !*asleep.borrow() {
        tokio::select! {
            _ = asleep.changed() => {}
            () = sleep(Duration::from_secs(1)) => if bytes_per_second > 0 { raw.read_some(bytes_per_second).await },
        }
    }
    let mut place = 0;
    loop {
        match raw.next().await {
            Some(Frame::Text(text)) => follow(&mut place, &text),
            Some(Frame::Close(code)) => return (place, Some(code)),
            None => return (place, None),
        }
    }
}

async fn read_all(mut raw: Raw, heard: Arc<AtomicU64>) {
    let mut place = 0;
    while let Some(Frame::Text(text)) = raw.next().await {
        let before = place;
        follow(&mut place, &text);
        heard.fetch_add(place - before, Ordering::Relaxed);
    }
}

/// The next message is the one after `place`. What else is told does not matter.
fn follow(place: &mut u64, text: &[u8]) {
    // Thousands of large texts are not to be parsed: the number is near the beginning.
    let head = String::from_utf8_lossy(&text[..text.len().min(200)]);
    if head.starts_with(r#"{"type":"message""#) {
        let offset = head.split(r#""offset":"#).nth(1).expect("an offset");
        let digits = offset.split(|next: char| !next.is_ascii_digit()).next();
        let offset: u64 = digits.unwrap().parse().unwrap();
        assert_eq!(offset, *place + 1, "lost, doubled or reordered");
        *place = offset;
    }
}

/// It comes back, and gets all that it missed.
async fn goes_on(server: &Chat, mut place: u64, top: u64) {
    let mut raw = Raw::connect(server.port()).await.unwrap();
    let page = json!({"type": "join", "room": "r", "history": 1});
    let epoch = raw.ask("joined", &page).await.unwrap()["epoch"].clone();
    let since = if place == 0 {
        json!({"epoch": "", "offset": 0})
    } else {
        json!({"epoch": epoch, "offset": place})
    };
    let join = json!({"type": "join", "room": "r", "since": since});
    let joined = raw.ask("joined", &join).await.unwrap();
    assert_eq!(joined["recovered"], true);
    for message in joined["messages"].as_array().unwrap() {
        follow_json(&mut place, message);
    }
    while place < top {
        match raw.next().await {
            Some(Frame::Text(text)) => follow(&mut place, &text),
            other => panic!("{other:?}"),
        }
    }
}

fn follow_json(place: &mut u64, message: &Value) {
    assert_eq!(message["offset"], *place + 1, "lost, doubled or reordered");
    *place += 1;
}

/// What was missed takes longer to read than a frame may take to arrive, which is how long a client
/// has to take something: it takes something all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_reader_gets_all_that_it_missed() {
    const MESSAGES: u64 = 40;
    let args = ["--port", "0", "--message-timeout", "3s", "--history-bytes", "10000000"];
    let server = Chat::start(command().args(args).args(FAST));
    let mut writer = server.native().await;
    join(&mut writer, "r").await;
    for _ in 0..MESSAGES {
        let send = json!({"type": "send", "room": "r", "message": "x".repeat(TEXT)});
        ask(&mut writer, "ok", send).await;
    }
    let mut reader = Raw::connect_narrow(server.port()).await;
    let since = json!({"epoch": "", "offset": 0});
    reader.send(&json!({"type": "join", "room": "r", "since": since})).await;
    let mut offset = 0;
    while offset < MESSAGES {
        // Some 60 KB a second.
        reader.read_some(8 * 1024).await;
        sleep(Duration::from_millis(130)).await;
        while let Some(text) = reader.next_text() {
            let frame: Value = serde_json::from_slice(&text).unwrap();
            offset = frame["offset"].as_u64().unwrap_or(offset);
            assert!(!matches!(frame["type"].as_str(), Some("gap" | "goodbye")), "{frame}");
        }
        assert_eq!(server.metric("chat_closed_total{code=\"4000\"}").await, 0, "after {offset}");
    }
}
