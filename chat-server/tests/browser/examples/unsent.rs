//! What the pages keep of messages that were not sent, and of drafts.

use super::{App, SHOWS, press, say, started, until_connected};
use crate::AWAY;
use crate::tokens::{self, KEY};
use crate::webdriver::Browser;

#[test]
fn page_offers_to_send_edit_or_discard_what_failed() {
    let (_server, app, browser) = started();
    let tab = app.open(&browser, "/");
    until_connected(&[&tab]);
    say(&tab, &"x".repeat(100_000));
    tab.until(SHOWS, &["#log", "The message is too long."]);
    // The same text would fail again.
    tab.until("document.querySelector('#log [data-action=resend]') === null", &[]);
    press(&tab, "#log [data-action=discard]");
    tab.until("document.querySelector('#log').childElementCount === 0", &[]);
    // An edited text is before what is in the input, and is kept as one that was typed.
    say(&tab, &"x".repeat(100_000));
    tab.until("document.querySelector('#log [data-action=edit]') !== null", &[]);
    tab.run("document.querySelector('#text').value = 'more'", &[]);
    press(&tab, "#log [data-action=edit]");
    tab.until("document.querySelector('#log').childElementCount === 0", &[]);
    tab.until("document.querySelector('#text').value.endsWith('xxx more')", &[]);
    tab.until("Object.values(sessionStorage).some((text) => text.includes('xxx more'))", &[]);
    say(&tab, "Short.");
    tab.until("document.querySelector('#log').innerText === 'ann: Short.'", &[]);
    // What failed is not there for the next user.
    say(&tab, &"x".repeat(100_000));
    tab.until("sessionStorage['unsent ann general'].includes('xxx')", &[]);
    press(&tab, "#log-out");
    tab.until("location.pathname === '/login'", &[]);
    assert_eq!(tab.run("return sessionStorage.length", &[]), 0);
    browser.assert_no_errors(&[]);
}

#[test]
fn unsent_message_of_the_page_survives_a_reload_and_is_sent_once() {
    survives_a_reload_and_is_sent_once("/");
}

/// A message that is written at this path of the application while the server is away.
fn survives_a_reload_and_is_sent_once(path: &str) {
    let mut server = tokens::start();
    let app = App::start(&server);
    let browser = Browser::start();
    let tab = app.open(&browser, path);
    until_connected(&[&tab]);
    server.kill();
    tab.until(SHOWS, &["#state", "The connection is lost."]);
    say(&tab, "Written offline");
    tab.go(&app.url(path));
    tab.until(SHOWS, &["#log", "You: Written offline …"]);
    server.restart();
    press(&tab, "#again");
    tab.until("sessionStorage['unsent ann general'] === '[]'", &[]);
    say(&tab, "The next one");
    let rows =
        "[...document.querySelectorAll('li')].map((row) => row.innerText).join() === arguments[0]";
    tab.until(rows, &["ann: Written offline,ann: The next one"]);
    browser.assert_no_errors(&[AWAY, "beforeunload"]);
}

/// Its worker ends with it.
#[test]
fn unsent_message_of_the_only_tab_of_a_worker_survives_a_reload() {
    survives_a_reload_and_is_sent_once("/shared");
}

/// The former user did not log out.
#[test]
fn tab_keeps_nothing_of_the_user_before() {
    let (_server, app, browser) = started();
    for path in ["/", "/shared"] {
        let tab = app.open(&browser, path);
        until_connected(&[&tab]);
        tab.run("sessionStorage['draft ann general'] = 'Written by Ann'", &[]);
        // Not at a reload by the same user.
        tab.go(&app.url(path));
        tab.until("document.querySelector('#text').value === 'Written by Ann'", &[]);
        tab.go(&app.url("/login?user=bob"));
        tab.go(&app.url(path));
        tab.until(SHOWS, &["#members", "bob"]);
        let left = "Object.values(sessionStorage).join().includes('Written by Ann')";
        assert_eq!(tab.run(&format!("return {left}"), &[]), false);
    }
    browser.assert_no_errors(&[]);
}

#[test]
fn page_chats_although_its_storage_is_full() {
    let (_server, app, browser) = started();
    for path in ["/", "/shared"] {
        let tab = app.open(&browser, path);
        until_connected(&[&tab]);
        tab.run(
            "for (let length = 2 ** 22; length >= 1; length /= 2) {
                try { sessionStorage.full = (sessionStorage.full ?? '') + 'x'.repeat(length) } catch {}
            }",
            &[],
        );
        say(&tab, &format!("Sent from {path} with {}", "y".repeat(100)));
        tab.until(SHOWS, &["#log", &format!("ann: Sent from {path}")]);
    }
    browser.assert_no_errors(&[]);
}

/// Another tab keeps the worker, and so the room with the message that failed.
#[test]
fn refused_message_of_a_tab_is_a_draft_after_a_reload_and_no_row() {
    let (_server, app, browser) = started();
    let (one, two) = (app.open(&browser, "/shared"), app.open(&browser, "/shared"));
    say(&one, &"x".repeat(40_000));
    two.until(SHOWS, &["#log", "The message is too long."]);
    one.run("location.reload()", &[]);
    one.until("document.querySelector('#text')?.value.startsWith('xxx')", &[]);
    for tab in [&one, &two] {
        tab.until("document.querySelector('#log').childElementCount === 0", &[]);
    }
    browser.assert_no_errors(&["beforeunload"]);
}

#[test]
fn what_was_not_sent_for_a_ban_does_not_say_that_the_user_is_out() {
    let (server, app, browser) = started();
    let tab = app.open(&browser, "/");
    until_connected(&[&tab]);
    server.post("/api/rooms/general/kick", KEY, r#"{"user":"ann"}"#);
    tab.until(SHOWS, &["#state", "A moderator has removed you."]);
    say(&tab, "Hello");
    tab.until(SHOWS, &["#log", "ann: Hello It was not sent."]);
    press(&tab, "#again");
    until_connected(&[&tab]);
    press(&tab, "#log [data-action=resend]");
    tab.until("document.querySelector('#log').innerText === 'ann: Hello'", &[]);
    browser.assert_no_errors(&[]);
}

#[test]
fn tab_shows_what_a_worker_that_is_not_there_has_not_sent() {
    let (_server, app, browser) = started();
    browser.open(&app.url("/login?user=ann"));
    let script = "window.Real = SharedWorker;
        window.SharedWorker = class { constructor() { return new Real('/missing.js'); } };";
    let tab = browser.open_after(script, &app.url("/shared"));
    tab.until(SHOWS, &["#state", "Connecting…"]);
    say(&tab, "Written early");
    tab.until("document.querySelector('#log').innerText === 'You: Written early …'", &[]);
    tab.run("window.SharedWorker = Real", &[]);
    tab.until("document.querySelector('#log').innerText === 'ann: Written early'", &[]);
    browser.assert_no_errors(&["404", "Failed to fetch a worker script"]);
}
