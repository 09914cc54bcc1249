//! The web client in a real browser, on real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod accessibility;
mod admin;
mod answers;
mod calls;
mod client;
mod copies;
mod devices;
mod embed;
mod examples;
mod fake;
mod faults;
mod history;
mod layout;
mod limits;
mod pace;
mod package;
mod presence;
mod runtimes;
mod sends;
mod server;
mod signs;
mod tokens;
mod vectors;
mod webdriver;

use chat_broker::testing::RedisServer;
use server::Server;
use webdriver::{Browser, key};

/// What Chromium logs when a server is away, or a connection is refused.
const AWAY: &str = "WebSocket connection to";

#[test]
fn two_tabs_on_two_servers() {
    let redis = RedisServer::start();
    let (one, two) = (Server::start_on(&redis), Server::start_on(&redis));
    let browser = Browser::start();
    let alice = browser.open(&one.url("/?user=Alice&room=general"));
    alice.until_shows("log", "You joined the room.");
    let port = two.port();
    let bob = browser.open(&one.url(&format!("/?port={port}&user=Bob&room=general")));
    bob.until_shows("log", "You joined the room.");
    alice.until_shows("log", "Bob joined the room.");
    alice.until_shows("members", "Bob");
    alice.until_shows("me", "Alice");

    bob.fill("message", "Hel");
    alice.until_shows("typing", "Bob is typing");
    bob.fill("message", "lo from the other server");
    bob.click("send");
    bob.until_shows("log", "Hello from the other server");
    alice.until_shows("log", "Bob");
    alice.until_shows("log", "Hello from the other server");
    alice.until("document.querySelector('[data-testid=typing]').innerText === ''", &[]);
    alice.fill("message", "Hello yourself");
    alice.click("send");
    bob.until_shows("log", "Hello yourself");
    bob.until_hidden("unsent");
    let servers = "document.querySelector('#connection').title";
    assert_ne!(alice.until(servers, &[]), bob.until(servers, &[]), "two servers");

    bob.click("leave");
    bob.until_shows("name", "");
    alice.until_shows("log", "Bob left the room.");
    browser.assert_no_errors(&[]);
}

#[test]
fn a_room_is_created_and_shared() {
    let (page, other) = (Server::start(), Server::start());
    let browser = Browser::start();
    // The room is made on the other server: a request across origins.
    let host = browser.open(&page.url(&format!("/?port={}", other.port())));
    host.fill("name", "Host");
    host.click("create");
    host.until_shows("link", "");
    let link = "document.querySelector('[data-testid=link]').value";
    let link = host.until(link, &[]).as_str().unwrap().to_owned();
    assert!(link.starts_with(&page.url("/join-room/")), "{link}");
    host.click("copy");
    host.until_shows("copy", "Copied");
    host.click("share-close");

    let guest = browser.open(&link);
    let room = guest.until("document.querySelector('[data-testid=room]').value", &[]);
    assert!(link.contains(room.as_str().unwrap()), "{link} {room}");
    guest.run("document.querySelector('[data-testid=name]').select()", &[]);
    guest.fill("name", "Guest");
    guest.click("join");
    host.until_shows("log", "Guest joined the room.");
    guest.fill("message", "Thank you for the link");
    guest.click("send");
    host.until_shows("log", "Thank you for the link");
    browser.assert_no_errors(&[]);
}

#[test]
fn address_of_a_room_that_cannot_be_is_explained_on_the_page() {
    let server = Server::start();
    let browser = Browser::start();
    let path = format!("/join-room/{}", "r".repeat(129));
    let tab = browser.open(&server.url(&path));
    tab.until_shows("name", "");
    tab.click("join");
    tab.until_shows("start-error", "This is no name for a room");
    // Programs get JSON.
    let accepting =
        |types: &str| server.request(&format!("GET {path}"), &["Host: localhost", types]);
    let (status, _, body) = accepting("Accept: */*");
    assert!(status == 400 && body.contains("bad_field"), "{status} {body}");
    let (status, _, body) = accepting("Accept: text/html,*/*;q=0.8");
    assert!(status == 400 && body.starts_with("<!doctype html>"), "{status} {body}");
    browser.assert_no_errors(&["400"]);
}

#[test]
fn a_restart_of_the_server_is_survived() {
    let redis = RedisServer::start();
    let mut server = Server::start_on(&redis);
    let browser = Browser::start();
    let alice = browser.open(&server.url("/?user=Alice&room=general"));
    let bob = browser.open(&server.url("/?user=Bob&room=general"));
    bob.until_shows("log", "You joined the room.");
    alice.until_shows("log", "Bob joined the room.");
    let colour = "getComputedStyle(document.querySelector('#member-list .avatar')).backgroundColor";
    let before = alice.until(colour, &[]);

    server.kill();
    alice.until_shows("banner", "Connection lost.");
    alice.until_shows("connection", "Reconnecting");
    alice.fill("message", "Said while it was away");
    alice.click("send");
    alice.until_shows("unsent", "Said while it was away");
    bob.until_shows("banner", "Connection lost.");
    server.restart();
    for tab in [&alice, &bob] {
        tab.run("document.querySelector('[data-testid=retry]').click()", &[]);
        tab.until_shows("connection", "Connected");
        tab.until_hidden("banner");
    }
    alice.until_shows("log", "Said while it was away");
    bob.fill("message", "Back again");
    bob.click("send");
    alice.until_shows("log", "Back again");
    assert_eq!(alice.until(colour, &[]), before, "the same user");
    let once = "document.querySelector('#log').innerText.split('Said while').length === 2";
    alice.until(once, &[]);
    for tab in [&alice, &bob] {
        let log = tab.run("return document.querySelector('#log').innerText", &[]);
        assert!(!log.as_str().unwrap().contains("missing"), "nothing was missed: {log}");
    }
    browser.assert_no_errors(&[AWAY]);
}

#[test]
fn the_page_reconnects_by_itself() {
    let mut server = Server::start();
    let browser = Browser::start();
    let tab = browser.open(&server.url("/?user=Alice&room=general"));
    tab.until_shows("log", "You joined the room.");
    server.kill();
    tab.until_shows("connection", "Reconnecting");
    server.restart();
    tab.until_shows("connection", "Connected");
    tab.fill("message", "Nobody clicked");
    tab.click("send");
    tab.until("document.querySelector('#log').innerText.includes('Nobody clicked')", &[]);
    browser.assert_no_errors(&[AWAY]);
}

#[test]
fn markup_stays_text() {
    let server = Server::start();
    let browser = Browser::start();
    let reader = browser.open(&server.url("/?user=Reader&room=general"));
    let writer = browser.open(&server.url("/?room=general"));
    let name = "<img src=x onerror=window.hacked=1>";
    let text = "<script>window.hacked=1</script><b>&lt;bold&gt;</b> javascript:hacked=1";
    writer.until_shows("name", "");
    writer.run("for (const id of ['name', 'room']) document.getElementById(id).value = ''", &[]);
    writer.fill("name", name);
    writer.fill("room", "general");
    writer.click("join");
    writer.fill("message", text);
    writer.click("send");
    for tab in [&reader, &writer] {
        tab.until_shows("log", text);
        tab.until_shows("members", name);
        let made =
            "return document.querySelectorAll('#log :is(script, b, img), #members img').length";
        assert_eq!(tab.run(made, &[]), 0);
        assert_eq!(tab.run("return typeof window.hacked", &[]), "undefined");
    }
    reader.until_shows("log", &format!("{name} joined the room."));
    let link = "see https://example.com/a?b=<c>, or https://example.org.";
    writer.fill("message", link);
    writer.click("send");
    reader.until_shows("log", link);
    let links =
        reader.run("return [...document.querySelectorAll('#log a')].map((a) => a.href)", &[]);
    assert_eq!(links, serde_json::json!(["https://example.com/a?b=", "https://example.org/"]));
    browser.assert_no_errors(&[]);
}

#[test]
fn with_the_keyboard_alone() {
    let server = Server::start();
    let browser = Browser::start();
    let tab = browser.open(&server.url("/"));
    let focus = "document.activeElement?.dataset.testid === arguments[0]";
    tab.until(focus, &["name"]);
    tab.press(&format!("Keyboardist{}first{}", key::TAB, key::ENTER));
    tab.until_shows("title", "first");
    tab.until(focus, &["message"]);
    tab.press(&format!("one line{}", key::ENTER));
    tab.until_shows("log", "one line");
    tab.until(focus, &["message"]);
    tab.press("a");
    tab.press_with(key::SHIFT, key::ENTER);
    tab.press(&format!("b{}", key::ENTER));
    tab.until_shows("log", "a\nb");

    tab.run("document.querySelector('[data-testid=add-room]').focus()", &[]);
    tab.press(&key::ENTER.to_string());
    tab.until(focus, &["add-name"]);
    tab.press(&format!("second{}", key::ENTER));
    tab.until_shows("title", "second");
    tab.until(focus, &["message"]);
    tab.press_with(key::ALT, key::UP);
    tab.until_shows("title", "first");
    tab.press_with(key::SHIFT, key::TAB);
    tab.until("document.activeElement?.id === 'scroller'", &[]);
    tab.press_with(key::SHIFT, key::TAB);
    tab.until(focus, &["leave"]);
    tab.press_with(key::SHIFT, key::TAB);
    tab.press(&key::ENTER.to_string());
    tab.until(focus, &["copy"]);
    tab.press(&key::ESCAPE.to_string());
    tab.until_hidden("copy");
    tab.until(focus, &["share"]);
    browser.assert_no_errors(&[]);
}

#[test]
fn rooms_keep_their_unread_messages_and_a_reload_keeps_the_rooms() {
    let server = Server::start();
    let browser = Browser::start();
    let alice = browser.open(&server.url("/?user=Alice&room=a"));
    alice.click("add-room");
    alice.fill("add-name", "b");
    alice.click("add-join");
    alice.until_shows("title", "b");
    let bob = browser.open(&server.url("/?user=Bob&room=a"));
    for text in ["first", "second"] {
        bob.fill("message", text);
        bob.click("send");
        bob.until_shows("log", text);
    }
    alice.until_shows("rooms", "2");
    alice.until("document.title.startsWith('(2) ')", &[]);
    alice.run("document.querySelector('#rooms button').click()", &[]);
    alice.until_shows("log", "second");
    alice.until("!document.title.startsWith('(')", &[]);

    let address = alice.run("return location.href", &[]);
    assert_eq!(address, server.url("/join-room/a"));
    alice.go(address.as_str().unwrap());
    alice.until_shows("me", "Alice");
    alice.until_shows("title", "a");
    alice.until_shows("rooms", "b");
    bob.fill("message", "after the reload");
    bob.click("send");
    alice.until_shows("log", "after the reload");
    browser.assert_no_errors(&[]);
}

/// A name that the page cuts is that of another room.
#[test]
fn long_room_names_are_joined_in_full_or_refused() {
    let server = Server::start();
    let browser = Browser::start();
    let longest = "r".repeat(128);
    let tab = browser.open(&server.url("/"));
    tab.fill("room", &longest);
    tab.click("join");
    tab.until_shows("title", &longest);
    tab.click("add-room");
    tab.fill("add-name", &format!("{longest}s"));
    tab.click("add-join");
    tab.until_shows("log", "This is no name for a room: it is too long");

    let tab = browser.open(&server.url("/"));
    tab.fill("room", &format!("{longest}s"));
    tab.click("join");
    tab.until_shows("start-error", "This is no name for a room: it is too long");
    browser.assert_no_errors(&[]);
}

#[test]
fn ten_thousand_messages_are_shown_through_a_window() {
    let server = Server::start();
    let browser = Browser::start();
    let tab = browser.open(&server.url("/?user=Reader&room=busy"));
    tab.until_shows("log", "You joined the room.");
    // Forty clients, one after another, none of which sends more than it may at once.
    let flood = "const { ChatClient } = await import('/web/chat-client.js');
        const client = new ChatClient(`ws://${location.host}/ws`);
        await client.connect();
        await client.join('busy');
        const numbers = Array.from({ length: 250 }, (_, n) => FIRST + n);
        await Promise.all(numbers.map((n) => client.send('busy', `number ${n}.`)));
        client.close();";
    for first in (0..10_000).step_by(250) {
        tab.run_async(&flood.replace("FIRST", &first.to_string()), &[]);
    }
    tab.until_shows("log", "number 9999.");
    let rows = "document.querySelectorAll('#log > li').length";
    let at_most = |most: u64| {
        let rows = tab.until(rows, &[]).as_u64().unwrap();
        assert!((1..=most).contains(&rows), "{rows} rows");
    };
    at_most(400);
    let to_the_first = "(() => {
        document.getElementById('scroller').scrollTop = 0;
        return document.querySelector('#log').innerText.includes('number 0.');
    })()";
    tab.until(to_the_first, &[]);
    at_most(400);
    tab.click("newest");
    tab.until_shows("log", "number 9999.");
    tab.until_hidden("newest");
    browser.assert_no_errors(&[]);
}
