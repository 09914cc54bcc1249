//! Loading, rooms, and why the user is out.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{App, SHOWS, press, say, started, until_connected};
use crate::AWAY;
use crate::tokens::{self, KEY};
use crate::webdriver::Browser;

#[test]
fn page_loads_while_the_server_is_away() {
    let mut server = tokens::start();
    server.kill();
    let app = App::start(&server);
    let browser = Browser::start();
    let tab = app.open(&browser, "/");
    tab.until(SHOWS, &["#state", "The connection is lost."]);
    server.restart();
    press(&tab, "#again");
    until_connected(&[&tab]);
    tab.until(SHOWS, &["#members", "1 here: ann"]);
    say(&tab, "Hello");
    tab.until(SHOWS, &["#log", "ann: Hello"]);
    browser.assert_no_errors(&[AWAY]);
}

/// The page under the service worker.
#[test]
fn service_worker_keeps_files_alone_and_no_token() {
    let (_server, app, browser) = started();
    let tab = app.open(&browser, "/");
    tab.run_async(
        "await navigator.serviceWorker.register('/service-worker.js');
        await navigator.serviceWorker.ready;",
        &[],
    );
    tab.run("location.reload()", &[]);
    tab.until("navigator.serviceWorker.controller !== null", &[]);
    until_connected(&[&tab]);
    let kept = tab.run_async(
        "for (const file of ['words.js', 'words.js?no-store']) await import(`/assets/${file}`);
        const requests = await (await caches.open('app-1')).keys();
        return requests.map(({ url }) => url.slice(location.origin.length));",
        &[],
    );
    assert_eq!(kept, json!(["/assets/words.js"]));
    // The application cannot be reached.
    tab.run("window.there = fetch; window.fetch = () => Promise.reject(new TypeError());", &[]);
    press(&tab, "#log-out");
    tab.until(SHOWS, &["#failure", "It is not known whether you are logged out."]);
    tab.run("window.fetch = there", &[]);
    press(&tab, "#log-out");
    tab.until("location.pathname === '/login'", &[]);
    tab.go(&app.url("/"));
    tab.until(SHOWS, &["#state", "You are logged out."]);
    tab.run("location.reload()", &[]);
    tab.until(SHOWS, &["#state", "You are logged out."]);
    browser.assert_no_errors(&["401"]);
}

/// The tabs of a user share one connection. The first tab hosts the worker: when it crashes, another
/// worker begins, and nothing that was written is lost.
#[test]
fn tabs_share_a_worker_and_survive_the_crash_of_its_host() {
    let (server, app, browser) = started();
    let host = app.open(&browser, "/shared");
    until_connected(&[&host]);
    let (two, three) = (app.open(&browser, "/shared"), app.open(&browser, "/shared?room=other"));
    for tab in [&two, &three] {
        tab.until(SHOWS, &["#members", "1 here: ann"]);
    }
    say(&host, "Hello");
    for tab in [&host, &two] {
        tab.until(SHOWS, &["#log", "ann: Hello"]);
    }
    server.until_metric("chat_rooms ", |count| count == 2);
    server.until_metric("chat_connections ", |count| count == 1);
    // A crash of another tab: the worker leaves its room.
    three.crash();
    server.until_metric("chat_rooms ", |count| count == 1);

    host.crash();
    let crashed = Instant::now();
    say(&two, "Written after the crash");
    two.until(SHOWS, &["#log", "Written after the crash"]);
    until_connected(&[&two]);
    // Without the lock three pings would notice it, after six seconds.
    assert!(crashed.elapsed() < Duration::from_secs(5));
    two.until("!document.querySelector('#log').innerText.includes('…')", &[]);
    let four = app.open(&browser, "/shared");
    four.until(SHOWS, &["#log", "ann: Hello\nann: Written after the crash"]);
    server.until_metric("chat_connections ", |count| count == 1);
    browser.assert_no_errors(&[]);
}

#[test]
fn user_id_may_have_any_characters() {
    let server = tokens::start();
    let app = App::start_with(&server, &[("CHAT_KEY", KEY)]);
    let browser = Browser::start();
    for path in ["/", "/shared"] {
        let tab = app.open_as("ann%2B1%26b%23c-d%25%22%40example.com", &browser, path);
        tab.until(SHOWS, &["#members", "1 here: ann+1&b#c-d%\"@example.com"]);
        press(&tab, "#log-out");
        tab.until("location.pathname === '/login'", &[]);
        tab.go(&app.url(path));
        tab.until(SHOWS, &["#state", "You are logged out."]);
    }
    browser.assert_no_errors(&["401"]);
}

#[test]
fn ban_after_a_kick_is_shown() {
    let (server, app, browser) = started();
    for path in ["/", "/shared"] {
        let tab = app.open(&browser, path);
        until_connected(&[&tab]);
        server.post("/api/rooms/general/kick", KEY, r#"{"user":"ann"}"#);
        tab.until(SHOWS, &["#state", "A moderator has removed you."]);
        server.post("/api/users/ann/disconnect", KEY, r#"{"ban":true,"reason":"Spam."}"#);
        tab.until(SHOWS, &["#state", "You are banned."]);
        tab.until(SHOWS, &["#reason", "Spam."]);
        server.post("/api/users/ann/unban", KEY, "");
        tab.go(&app.url("/login"));
    }
    browser.assert_no_errors(&[]);
}

#[test]
fn page_has_a_list_of_rooms_with_their_unread_messages() {
    let (server, app, browser) = started();
    let say_in = |room: &str, text: &str| {
        let body = json!({"message": text}).to_string();
        server.post(&format!("/api/rooms/{room}/messages"), KEY, &body);
    };
    say_in("help", "Said before");
    let tab = app.open(&browser, "/");
    until_connected(&[&tab]);
    server.until_metric("chat_rooms ", |count| count == 2);
    for text in ["One", "Two"] {
        say_in("help", text);
    }
    tab.until("document.querySelector('#rooms').innerText === 'generalhelp (2)'", &[]);
    tab.run(
        "const text = document.querySelector('#text');
        text.value = 'For general';
        text.dispatchEvent(new Event('input'));",
        &[],
    );
    press(&tab, "#rooms button:last-child");
    tab.until("document.querySelector('#rooms').innerText === 'generalhelp'", &[]);
    tab.until("document.querySelector('#log').childElementCount === 3", &[]);
    tab.until("document.querySelector('#text').value === ''", &[]);
    say(&tab, "Hello");
    tab.until(SHOWS, &["#log", "ann: Hello"]);
    press(&tab, "#rooms button:first-child");
    tab.until("document.querySelector('#log').childElementCount === 0", &[]);
    tab.until("document.querySelector('#text').value === 'For general'", &[]);
    tab.until("document.querySelector('#rooms').innerText === 'generalhelp'", &[]);
    browser.assert_no_errors(&[]);
}

#[test]
fn page_sends_no_blank_message_and_says_that_a_token_is_refused() {
    let (_server, app, browser) = started();
    let tab = app.open(&browser, "/");
    until_connected(&[&tab]);
    say(&tab, "   ");
    say(&tab, " Hello ");
    tab.until("document.querySelector('#log').innerText === 'ann: Hello'", &[]);
    // The backend has a wrong clock: another log-in would not help.
    tab.go(&app.url("/login?user=ann&lifetime=-600"));
    for path in ["/", "/shared"] {
        tab.go(&app.url(path));
        tab.until(SHOWS, &["#state", "The chat does not accept your log-in."]);
        tab.until(SHOWS, &["#again", "Connect now"]);
    }
    browser.assert_no_errors(&[]);
}
