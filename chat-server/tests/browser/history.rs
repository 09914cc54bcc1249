//! What was said before one came, and while one was away.

use std::ops::Range;

use chat_broker::testing::{Direction, RedisServer, TcpProxy};
use serde_json::{Value, json};

use crate::AWAY;
use crate::server::Server;
use crate::webdriver::{Browser, Tab};

#[test]
fn who_comes_late_sees_the_latest_and_scrolls_back_to_the_first() {
    let server = Server::start();
    let browser = Browser::start();
    let writer = browser.open(&server.url("/"));
    flood(&writer, "general", 0, 230);
    let reader = browser.open(&server.url("/?user=Reader&room=general"));
    reader.until_shows("log", "You joined the room.");
    assert_eq!(numbers(&reader), json!(range(180, 230)), "the latest");

    let page_more = "const { scrollTop } = document.getElementById('scroller');
        const row = document.querySelector('#log li:nth-child(3)');
        const before = row.getBoundingClientRect().top;
        document.getElementById('scroller').scrollTop = 200;
        window.place = { row, top: before + scrollTop - 200 };";
    reader.run(page_more, &[]);
    let came = "document.querySelectorAll('#log .text').length > 50";
    reader.until(came, &[]);
    let moved = "return Math.abs(place.row.getBoundingClientRect().top - place.top)";
    assert!(reader.run(moved, &[]).as_f64().unwrap() < 2.0, "what one reads stays in place");
    to_the_first(&reader);
    assert_eq!(numbers(&reader), json!(range(0, 230)), "in order, each once");
    let heads = "return ['.message:not(.goes-on)', '.day']
        .map((kind) => document.querySelectorAll(`#log ${kind}`).length)";
    assert_eq!(reader.run(heads, &[]), json!([1, 1]), "one user, one day");
    reader.click("newest");
    flood(&writer, "general", 230, 1);
    reader.until_shows("log", "number 230.");
    reader.until_hidden("older");
    browser.assert_no_errors(&[]);
}

#[test]
fn the_past_is_not_unread() {
    let server = Server::start();
    let browser = Browser::start();
    let writer = browser.open(&server.url("/"));
    flood(&writer, "general", 0, 3);
    let reader = browser.open(&server.url("/?user=Reader&room=general"));
    reader.click("add-room");
    reader.fill("add-name", "other");
    reader.click("add-join");
    reader.until_shows("title", "other");
    // After a reload it receives the history while it shows the other room.
    reader.go(&server.url("/join-room/other"));
    reader.until_shows("log", "You joined the room.");
    flood(&writer, "general", 3, 1);
    reader.until("document.title.startsWith('(') && document.title", &[]);
    assert_eq!(reader.run("return document.title", &[]), "(1) other · Chat");
    browser.assert_no_errors(&[]);
}

#[test]
fn older_messages_that_do_not_come_can_be_asked_for_again() {
    let server = Server::start();
    let network = TcpProxy::start(server.port());
    let browser = Browser::start();
    let writer = browser.open(&server.url("/"));
    flood(&writer, "general", 0, 80);
    let reader = browser.open(&server.url(&through(&network, "Reader")));
    reader.until_shows("log", "You joined the room.");
    network.disconnect();
    reader.until_shows("connection", "Reconnecting");
    reader.run("document.getElementById('scroller').scrollTop = 0", &[]);
    reader.until_shows("older", "Try again");
    assert_eq!(numbers(&reader), json!(range(30, 80)));
    network.restore();
    to_the_first(&reader);
    assert_eq!(numbers(&reader), json!(range(0, 80)));
    reader.until_hidden("older");
    browser.assert_no_errors(&[AWAY]);
}

#[test]
fn what_was_said_during_an_absence_is_recovered() {
    let server = Server::start();
    let network = TcpProxy::start(server.port());
    let browser = Browser::start();
    let writer = browser.open(&server.url("/?user=Writer&room=general"));
    let reader = browser.open(&server.url(&through(&network, "Reader")));
    writer.until_shows("log", "Reader joined the room.");
    flood(&writer, "general", 0, 3);
    reader.until_shows("log", "number 2.");
    network.disconnect();
    reader.until_shows("connection", "Reconnecting");
    flood(&writer, "general", 3, 120);
    network.restore();
    reader.until_shows("log", "number 122.");
    flood(&writer, "general", 123, 2);
    reader.until_shows("log", "number 124.");
    to_the_first(&reader);
    assert_eq!(numbers(&reader), json!(range(0, 125)));
    assert!(!notices(&reader).contains("missing"), "{}", notices(&reader));
    browser.assert_no_errors(&[AWAY]);
}

#[test]
fn what_is_gone_for_good_is_told_and_what_is_left_is_shown() {
    let mut server = Server::start();
    let network = TcpProxy::start(server.port());
    let browser = Browser::start();
    let writer = browser.open(&server.url("/"));
    flood(&writer, "general", 0, 60);
    let reader = browser.open(&server.url(&through(&network, "Reader")));
    reader.until_shows("log", "You joined the room.");
    network.disconnect();
    reader.until_shows("connection", "Reconnecting");
    // The rooms of this server live in its memory.
    server.kill();
    server.restart();
    flood(&writer, "general", 60, 5);
    network.restore();
    reader.until_shows("log", "number 64.");
    assert_eq!(numbers(&reader), json!(range(10, 65)));
    let rows = reader.run("return document.querySelector('#log').innerText", &[]);
    let (before, after) = rows.as_str().unwrap().split_once("Messages may be missing").unwrap();
    assert!(before.contains("number 59.") && after.contains("number 60."), "{rows}");
    // What was before is of another sequence: nothing of this one is put there.
    reader.run("document.getElementById('scroller').scrollTop = 0", &[]);
    flood(&writer, "general", 65, 1);
    reader.until_hidden("older");
    reader.run("document.getElementById('scroller').scrollTop = 1e6", &[]);
    reader.until_shows("log", "number 65.");
    assert_eq!(numbers(&reader), json!(range(10, 66)));
    browser.assert_no_errors(&[AWAY]);
}

#[test]
fn what_is_said_just_before_a_loss_is_said_once() {
    let server = Server::start();
    let network = TcpProxy::start(server.port());
    let browser = Browser::start();
    let bob = join(&browser, &server, "Bob");
    let alice = browser.open(&server.url(&through(&network, "Alice")));
    bob.until_shows("log", "Alice joined the room.");
    network.swallow(Direction::ToClient);
    write(&alice, 0..3);
    bob.until_shows("log", "number 0.");
    alice.until_shows("unsent", "number 0.");
    network.disconnect();
    network.restore();
    for tab in [&alice, &bob] {
        tab.until_shows("log", "number 2.");
        assert_eq!(numbers(tab), json!(range(0, 3)));
    }
    alice.until("document.querySelector('#unsent').innerText === ''", &[]);
    browser.assert_no_errors(&[AWAY]);
}

#[test]
fn what_is_said_while_redis_does_not_answer_is_said_once() {
    let redis = RedisServer::start();
    let server = Server::start_on(&redis);
    let browser = Browser::start();
    let alice = join(&browser, &server, "Alice");
    let bob = join(&browser, &server, "Bob");
    redis.pause();
    write(&alice, 0..3);
    alice.until_shows("unsent", "number 2.");
    server.until_refused("broker_unavailable");
    redis.resume();
    alice.until_shows("log", "number 2.");
    alice.until("document.querySelector('#unsent').innerText === ''", &[]);
    flood(&bob, "general", 3, 1);
    for tab in [&alice, &bob] {
        tab.until_shows("log", "number 3.");
        assert_eq!(numbers(tab), json!(range(0, 4)));
        assert!(!notices(tab).contains("missing"), "{}", notices(tab));
    }
    browser.assert_no_errors(&[]);
}

#[test]
fn what_is_said_while_redis_is_dead_is_said_once() {
    let mut redis = RedisServer::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let server = Server::start_on(&redis);
    let browser = Browser::start();
    let alice = join(&browser, &server, "Alice");
    let bob = join(&browser, &server, "Bob");
    flood(&bob, "general", 0, 1);
    alice.until_shows("log", "number 0.");
    redis.kill();
    write(&alice, 1..4);
    alice.until_shows("unsent", "number 3.");
    redis.restart();
    alice.until_shows("log", "number 3.");
    for tab in [&alice, &bob] {
        tab.until_shows("log", "number 3.");
        assert_eq!(numbers(tab), json!(range(0, 4)));
        assert!(!notices(tab).contains("missing"), "{}", notices(tab));
    }
    browser.assert_no_errors(&[]);
}

/// The page of a user whose connection goes through `network`.
fn through(network: &TcpProxy, user: &str) -> String {
    format!("/?port={}&user={user}&room=general", network.port())
}

fn join<'a>(browser: &'a Browser, server: &Server, user: &str) -> Tab<'a> {
    let tab = browser.open(&server.url(&format!("/?user={user}&room=general")));
    tab.until_shows("log", "You joined the room.");
    tab
}

/// Types numbered messages into the page.
fn write(tab: &Tab<'_>, numbers: Range<u32>) {
    for n in numbers {
        tab.fill("message", &format!("number {n}."));
        tab.click("send");
    }
}

/// Says `count` messages in a room, numbered from `first`, by way of the page's module.
fn flood(tab: &Tab<'_>, room: &str, first: u32, count: u32) {
    let flood = "const { ChatClient } = await import('/web/chat-client.js');
        const [room, first, count] = arguments;
        const client = new ChatClient(`ws://${location.host}/ws`, { name: 'Flood', queueLimit: 1000 });
        await client.connect();
        await client.join(room);
        const numbers = Array.from({ length: Number(count) }, (_, n) => Number(first) + n);
        await Promise.all(numbers.map((n) => client.send(room, `number ${n}.`)));
        client.close();";
    tab.run_async(flood, &[room, &first.to_string(), &count.to_string()]);
}

/// Scrolls up until the first of all messages is seen.
fn to_the_first(tab: &Tab<'_>) {
    let first = "(() => {
        document.getElementById('scroller').scrollTop = 0;
        return document.querySelector('#log').innerText.includes('number 0.');
    })()";
    tab.until(first, &[]);
}

/// The messages in the page, by their numbers.
fn numbers(tab: &Tab<'_>) -> Value {
    let numbers = "return [...document.querySelectorAll('#log .text')]
        .map((text) => Number(text.innerText.match(/number (\\d+)/)[1]))";
    tab.run(numbers, &[])
}

fn range(from: u32, to: u32) -> Vec<u32> {
    (from..to).collect()
}

fn notices(tab: &Tab<'_>) -> String {
    let notices = "return [...document.querySelectorAll('#log .notice')]
        .map((notice) => notice.innerText).join()";
    tab.run(notices, &[]).as_str().unwrap().to_owned()
}
