//! A log-out, which is one in all tabs of the user.

use std::time::Duration;

use super::{App, SHOWS, press, say, started, until_connected};
use crate::AWAY;
use crate::server::Server;
use crate::tokens::{self, KEY};
use crate::webdriver::{Browser, Tab};

#[test]
fn page_renews_its_token_until_the_user_logs_out_elsewhere() {
    let (_server, app, browser) = started();
    let tab = browser.open(&app.url("/login?user=ann&lifetime=2"));
    tab.go(&app.url("/"));
    until_connected(&[&tab]);
    let other = browser.open(&app.url("/login"));
    other.until("fetch('/count').then((answer) => answer.text()).then((count) => count > 2)", &[]);
    assert_eq!(tab.run("return document.querySelector('#state').innerText", &[]), "Connected");
    other.run_async("await fetch('/logout', { method: 'POST' })", &[]);
    tab.until(SHOWS, &["#state", "You are logged out."]);
    press(&tab, "#again");
    tab.until("location.pathname === '/login'", &[]);
    browser.assert_no_errors(&["401"]);
}

#[test]
fn tabs_open_while_the_server_is_away_and_log_out_together() {
    let mut server = tokens::start();
    server.kill();
    let app = App::start(&server);
    let browser = Browser::start();
    let (one, two) = (app.open(&browser, "/shared"), app.open(&browser, "/shared"));
    for tab in [&one, &two] {
        tab.until(SHOWS, &["#state", "The connection is lost."]);
    }
    server.restart();
    press(&one, "#again");
    until_connected(&[&one, &two]);
    // A tab that returns from the cache of the browser.
    one.run("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))", &[]);
    say(&one, "Hello");
    two.until(SHOWS, &["#log", "ann: Hello"]);
    // Another user has a worker, and so a connection, of their own.
    let bob = browser.open(&app.url("/login?user=bob"));
    bob.go(&app.url("/shared"));
    bob.until(SHOWS, &["#members", "2 here"]);
    two.run("sessionStorage['draft ann general'] = 'Written by Ann'", &[]);
    press(&one, "#log-out");
    // Nothing of this user is left for the next one, in any tab.
    for tab in [&one, &two] {
        tab.until("location.pathname === '/login' && sessionStorage.length === 0", &[]);
    }
    browser.assert_no_errors(&[AWAY, "401"]);
}

/// Another user has logged in since the tab was loaded.
#[test]
fn log_out_of_a_stale_tab_leaves_the_session_of_another_user() {
    let server = tokens::start();
    let app = App::start_with(&server, &[("CHAT_KEY", KEY)]);
    let browser = Browser::start();
    for path in ["/", "/shared"] {
        let (one, two) = (app.open(&browser, path), app.open(&browser, path));
        let bob = app.open_as("bob", &browser, path);
        bob.until(SHOWS, &["#members", "2 here"]);
        press(&one, "#log-out");
        for tab in [&one, &two] {
            tab.until("location.pathname === '/login'", &[]);
        }
        bob.until(SHOWS, &["#members", "1 here: bob"]);
        bob.run("location.reload()", &[]);
        bob.until(SHOWS, &["#members", "1 here: bob"]);
        press(&bob, "#log-out");
        bob.until("location.pathname === '/login'", &[]);
    }
    browser.assert_no_errors(&["401"]);
}

#[test]
fn log_out_asks_about_unsent_messages_of_other_tabs() {
    let mut server = tokens::start();
    let app = App::start(&server);
    let browser = Browser::start();
    for path in ["/", "/shared"] {
        let (one, two) = (app.open(&browser, path), app.open(&browser, path));
        until_connected(&[&one, &two]);
        server.kill();
        for tab in [&one, &two] {
            tab.until(SHOWS, &["#state", "The connection is lost."]);
        }
        say(&two, "Written offline");
        two.until(SHOWS, &["#log", "Written offline …"]);
        one.run("window.confirm = () => !(window.wasAsked = true)", &[]);
        press(&one, "#log-out");
        one.until("window.wasAsked", &[]);
        server.restart();
        press(&two, "#again");
        two.until(SHOWS, &["#log", "Written offline"]);
        two.until("!document.querySelector('#log').innerText.includes('…')", &[]);
        one.run("window.wasAsked = false", &[]);
        press(&one, "#log-out");
        one.until("location.pathname === '/login'", &[]);
    }
    browser.assert_no_errors(&[AWAY, "401"]);
}

/// The log-out takes effect when a tab has connected again.
#[test]
fn late_log_out_is_no_removal_by_a_moderator() {
    let (server, app, browser) = started();
    for path in ["/", "/shared"] {
        let tab = app.open(&browser, path);
        until_connected(&[&tab]);
        server.post("/api/users/ann/disconnect", KEY, r#"{"reason":"logged_out"}"#);
        tab.until(SHOWS, &["#state", "You are logged out."]);
        tab.until("document.querySelector('#reason').hidden", &[]);
        server.until_metric("chat_connections ", |count| count == 0);
        tab.go(&app.url("/login"));
    }
    browser.assert_no_errors(&[]);
}

/// While a log-out is under way its session is still there: no tab of the worker connects with it,
/// also not by another worker after a crash.
#[test]
fn tabs_of_a_worker_stay_out_while_one_logs_out() {
    let (server, app, browser) = started();
    let host = app.open(&browser, "/shared");
    let (two, three) = (app.open(&browser, "/shared"), app.open(&browser, "/shared"));
    until_connected(&[&host, &two, &three]);
    hold_requests(&two);
    press(&two, "#log-out");
    three.until(SHOWS, &["#state", "Logging out…"]);
    press(&three, "#again");
    let late = app.open(&browser, "/shared");
    stays_out(&server);
    host.crash();
    late.until(SHOWS, &["#state", "Connecting…"]);
    press(&three, "#again");
    stays_out(&server);
    two.run("letGo()", &[]);
    for tab in [&two, &three, &late] {
        tab.until("location.pathname === '/login'", &[]);
    }
    stays_out(&server);
    browser.assert_no_errors(&["401"]);
}

/// The same without a worker.
#[test]
fn tabs_of_the_page_stay_out_while_one_logs_out() {
    let (server, app, browser) = started();
    let (one, two) = (app.open(&browser, "/"), app.open(&browser, "/"));
    until_connected(&[&one, &two]);
    hold_requests(&one);
    press(&one, "#log-out");
    for tab in [&one, &two] {
        tab.until(SHOWS, &["#state", "Logging out…"]);
        tab.until("document.querySelector('#again').hidden", &[]);
        press(tab, "#again");
    }
    let late = app.open(&browser, "/");
    late.until(SHOWS, &["#state", "Logging out…"]);
    stays_out(&server);
    one.run("letGo()", &[]);
    for tab in [&one, &two, &late] {
        tab.until("location.pathname === '/login'", &[]);
    }
    browser.assert_no_errors(&["401"]);
}

/// The application has all connections of the user closed.
#[test]
fn log_out_is_no_removal_by_a_moderator() {
    let server = tokens::start();
    let app = App::start_with(&server, &[("CHAT_KEY", KEY)]);
    let browser = Browser::start();
    for path in ["/", "/shared"] {
        let (one, two) = (app.open(&browser, path), app.open(&browser, path));
        until_connected(&[&two]);
        // What the page shows on the way, for the next page.
        two.run(
            "const state = document.querySelector('#state');
            const note = () => (localStorage.shown = (localStorage.shown ?? '') + state.innerText);
            new MutationObserver(note).observe(state, { childList: true, characterData: true, subtree: true });",
            &[],
        );
        press(&one, "#log-out");
        two.until("location.pathname === '/login' && localStorage.shown", &[]);
        let shown =
            two.run("const { shown } = localStorage; localStorage.clear(); return shown", &[]);
        let shown = shown.as_str().unwrap();
        assert!(shown.contains("Logging out…") && !shown.contains("moderator"), "{shown}");
    }
    browser.assert_no_errors(&["401"]);
}

/// The application has ended the session, or has not: a request that failed does not tell.
#[test]
fn log_out_without_an_answer_is_asked_for() {
    let (_server, app, browser) = started();
    for path in ["/", "/shared"] {
        let tab = app.open(&browser, path);
        until_connected(&[&tab]);
        let lose_log_outs = "window.there ??= fetch;
            const late = () => Promise.reject(new DOMException('', 'TimeoutError'));
            window.fetch = (path, options) => {
                if (!path.startsWith('/logout')) return there(path, options);
                return arguments[0] === 'request' ? late() : there(path, options).then(late);
            };";
        tab.run(lose_log_outs, &["request"]);
        press(&tab, "#log-out");
        tab.until(SHOWS, &["#failure", "It is not known whether you are logged out."]);
        tab.run(lose_log_outs, &["answer"]);
        press(&tab, "#log-out");
        tab.until("location.pathname === '/login'", &[]);
    }
    browser.assert_no_errors(&["401"]);
}

/// The requests of a tab wait until `letGo()`.
fn hold_requests(tab: &Tab<'_>) {
    tab.run(
        "const there = fetch;
        const going = new Promise((resolve) => (window.letGo = resolve));
        window.fetch = (...request) => going.then(() => there(...request));",
        &[],
    );
}

fn stays_out(server: &Server) {
    std::thread::sleep(Duration::from_secs(1));
    server.until_metric("chat_connections ", |count| count == 0);
}

#[test]
fn tabs_connect_again_when_the_log_out_of_one_failed() {
    let (_server, app, browser) = started();
    let (one, two) = (app.open(&browser, "/shared"), app.open(&browser, "/shared"));
    until_connected(&[&one, &two]);
    one.run("window.fetch = async () => new Response('', { status: 403 })", &[]);
    press(&one, "#log-out");
    one.until(SHOWS, &["#failure", "You are not logged out."]);
    two.until(SHOWS, &["#state", "The chat is disconnected."]);
    press(&two, "#again");
    until_connected(&[&one, &two]);
    browser.assert_no_errors(&[]);
}

#[test]
fn log_out_of_the_page_is_one_in_all_tabs() {
    let (server, app, browser) = started();
    let (one, two) = (app.open(&browser, "/"), app.open(&browser, "/"));
    until_connected(&[&one, &two]);
    let kept = app.open(&browser, "/");
    say(&kept, "Of Ann");
    kept.until(SHOWS, &["#log", "ann: Of Ann"]);
    kept.go(&app.url("/count"));
    kept.until("location.pathname === '/count'", &[]);
    say(&two, &"x".repeat(100_000));
    two.until("sessionStorage['unsent ann general'].includes('xxx')", &[]);
    press(&one, "#log-out");
    for tab in [&one, &two] {
        tab.until("location.pathname === '/login' && sessionStorage.length === 0", &[]);
    }
    // Nor is the page there in the back/forward cache.
    kept.run("history.back()", &[]);
    kept.until(SHOWS, &["#state", "You are logged out."]);
    kept.until("document.querySelector('#log').innerText === ''", &[]);
    // Nor behind the button "Back": the page before it is next, which logs in.
    two.run("history.back()", &[]);
    two.until("location.search === '?user=ann' && document.querySelector('#log') === null", &[]);
    server.until_metric("chat_connections ", |count| count == 0);
    browser.assert_no_errors(&["401"]);
}
