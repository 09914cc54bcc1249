//! Who is in a room, as the page shows it.

use crate::server::Server;
use crate::webdriver::Browser;

const COUNT: &str = "document.querySelector('#count').innerText === arguments[0]";

#[test]
fn a_reload_is_not_told_and_a_closed_tab_is() {
    let server = Server::start_with(&["--presence-grace", "2s"]);
    let browser = Browser::start();
    let alice = browser.open(&server.url("/?user=Alice&room=general"));
    alice.until_shows("log", "You joined the room.");
    let bob = browser.open(&server.url("/?user=Bob&room=general"));
    alice.until_shows("log", "Bob joined the room.");
    bob.go(&server.url("/?user=Bob&room=general"));
    bob.until_shows("log", "You joined the room.");
    bob.close();
    alice.until_shows("log", "Bob left the room.");
    let told = "return document.querySelector('#log').innerText.match(/Bob (joined|left)/g).join()";
    assert_eq!(alice.run(told, &[]), "Bob joined,Bob left");
    alice.until(COUNT, &["1"]);
    browser.assert_no_errors(&[]);
}

/// A client of the module takes another name: it returns within the grace.
#[test]
fn list_shows_the_latest_name() {
    let server = Server::start();
    let browser = Browser::start();
    let alice = browser.open(&server.url("/?user=Alice&room=general"));
    alice.until_shows("log", "You joined the room.");
    let bob = browser.open(&server.url("/"));
    let rename = "const { ChatClient } = await import('/web/chat-client.js');
        const address = new URL('/ws', location).href.replace('http', 'ws');
        window.bob = new ChatClient(address, { name: 'Bob' });
        await window.bob.connect();
        await window.bob.join('general');
        await window.bob.rename('Bobby');";
    bob.run_async(rename, &[]);
    alice.until_shows("members", "Bobby");
    alice.until_shows("log", "Bob is now Bobby.");
    alice.until(COUNT, &["2"]);
    browser.assert_no_errors(&[]);
}

#[test]
fn of_a_crowd_the_number_is_shown() {
    let server = Server::start_with(&["--presence-limit", "2"]);
    let browser = Browser::start();
    let alice = browser.open(&server.url("/?user=Alice&room=general"));
    alice.until_shows("log", "You joined the room.");
    let others = ["Bob", "Cid", "Dan"].map(|name| {
        let tab = browser.open(&server.url(&format!("/?user={name}&room=general")));
        tab.until_shows("log", "You joined the room.");
        tab
    });
    alice.until(COUNT, &["4"]);
    for other in &others[1..] {
        other.click("leave");
    }
    alice.until(COUNT, &["2"]);
    others[0].click("leave");
    alice.until(COUNT, &["1"]);
    alice.until("document.querySelectorAll('#member-list li').length === 1", &[]);
    alice.until_shows("members", "Alice");
    browser.assert_no_errors(&[]);
}
