//! The examples of docs/recipes.md, in an application that logs its users in.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::AWAY;
use crate::package::{Node, socket};
use crate::server::Server;
use crate::tokens::{self, KEY, SECRET};
use crate::webdriver::{Browser, Tab};

/// Whether an element shows a text.
const SHOWS: &str = "document.querySelector(arguments[0])?.innerText.includes(arguments[1])";

/// The application, and Ann in a browser.
struct App {
    _process: Node,
    address: String,
}

impl App {
    fn start(server: &Server) -> Self {
        Self::start_with(server, &[])
    }

    fn start_with(server: &Server, variables: &[(&str, &str)]) -> Self {
        let url = socket(server);
        let own = [("CHAT_URL", url.as_str()), ("CHAT_SECRET", SECRET)];
        let variables = [&own[..], variables].concat();
        let mut process = Node::start_with(&["examples-app.js"], &variables);
        let address = process.line();
        Self { _process: process, address }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    /// Logs in, and opens a page.
    fn open<'a>(&self, browser: &'a Browser, path: &str) -> Tab<'a> {
        self.open_as("ann", browser, path)
    }

    /// The same for another user, whose id is encoded.
    fn open_as<'a>(&self, user: &str, browser: &'a Browser, path: &str) -> Tab<'a> {
        let tab = browser.open(&self.url(&format!("/login?user={user}")));
        tab.go(&self.url(path));
        tab
    }
}

fn say(tab: &Tab<'_>, text: &str) {
    let script = "document.querySelector('#text').value = arguments[0];
        document.querySelector('#form').requestSubmit();";
    tab.run(script, &[text]);
}

fn press(tab: &Tab<'_>, selector: &str) {
    tab.run("document.querySelector(arguments[0]).click()", &[selector]);
}

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
    tab.until(SHOWS, &["#state", "Connected"]);
    tab.until(SHOWS, &["#members", "1 here: ann"]);
    say(&tab, "Hello");
    tab.until(SHOWS, &["#log", "ann: Hello"]);
    browser.assert_no_errors(&[AWAY]);
}

#[test]
fn page_offers_to_send_or_discard_what_failed() {
    let server = tokens::start();
    let app = App::start(&server);
    let browser = Browser::start();
    let tab = app.open(&browser, "/");
    tab.until(SHOWS, &["#state", "Connected"]);
    say(&tab, &"x".repeat(100_000));
    tab.until(SHOWS, &["#log", "The message is too long."]);
    // The same text would fail again.
    tab.until("document.querySelector('#log [data-action=resend]') === null", &[]);
    press(&tab, "#log [data-action=discard]");
    tab.until("document.querySelector('#log').childElementCount === 0", &[]);
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
    tab.until(SHOWS, &["#state", "Connected"]);
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

#[test]
fn page_renews_its_token_until_the_user_logs_out_elsewhere() {
    let server = tokens::start();
    let app = App::start(&server);
    let browser = Browser::start();
    let tab = browser.open(&app.url("/login?user=ann&lifetime=2"));
    tab.go(&app.url("/"));
    tab.until(SHOWS, &["#state", "Connected"]);
    let other = browser.open(&app.url("/login"));
    other.until("fetch('/count').then((answer) => answer.text()).then((count) => count > 2)", &[]);
    assert_eq!(tab.run("return document.querySelector('#state').innerText", &[]), "Connected");
    other.run_async("await fetch('/logout', { method: 'POST' })", &[]);
    tab.until(SHOWS, &["#state", "You are logged out."]);
    press(&tab, "#again");
    tab.until("location.pathname === '/login'", &[]);
    browser.assert_no_errors(&["401"]);
}

/// The page under the service worker.
#[test]
fn service_worker_keeps_files_alone_and_no_token() {
    let server = tokens::start();
    let app = App::start(&server);
    let browser = Browser::start();
    let tab = app.open(&browser, "/");
    tab.run_async(
        "await navigator.serviceWorker.register('/service-worker.js');
        await navigator.serviceWorker.ready;",
        &[],
    );
    tab.run("location.reload()", &[]);
    tab.until("navigator.serviceWorker.controller !== null", &[]);
    tab.until(SHOWS, &["#state", "Connected"]);
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
    let server = tokens::start();
    let app = App::start(&server);
    let browser = Browser::start();
    let host = app.open(&browser, "/shared");
    host.until(SHOWS, &["#state", "Connected"]);
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
    two.until(SHOWS, &["#state", "Connected"]);
    // Without the lock three pings would notice it, after six seconds.
    assert!(crashed.elapsed() < Duration::from_secs(5));
    two.until("!document.querySelector('#log').innerText.includes('…')", &[]);
    let four = app.open(&browser, "/shared");
    four.until(SHOWS, &["#log", "ann: Hello\nann: Written after the crash"]);
    server.until_metric("chat_connections ", |count| count == 1);
    browser.assert_no_errors(&[]);
}

/// Its worker ends with it.
#[test]
fn unsent_message_of_the_only_tab_of_a_worker_survives_a_reload() {
    survives_a_reload_and_is_sent_once("/shared");
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
    for tab in [&one, &two] {
        tab.until(SHOWS, &["#state", "Connected"]);
    }
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

/// The former user did not log out.
#[test]
fn tab_keeps_nothing_of_the_user_before() {
    let server = tokens::start();
    let app = App::start(&server);
    let browser = Browser::start();
    for path in ["/", "/shared"] {
        let tab = app.open(&browser, path);
        tab.until(SHOWS, &["#state", "Connected"]);
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
fn log_out_asks_about_unsent_messages_of_other_tabs() {
    let mut server = tokens::start();
    let app = App::start(&server);
    let browser = Browser::start();
    for path in ["/", "/shared"] {
        let (one, two) = (app.open(&browser, path), app.open(&browser, path));
        for tab in [&one, &two] {
            tab.until(SHOWS, &["#state", "Connected"]);
        }
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

#[test]
fn ban_after_a_kick_is_shown() {
    let server = tokens::start();
    let app = App::start(&server);
    let browser = Browser::start();
    for path in ["/", "/shared"] {
        let tab = app.open(&browser, path);
        tab.until(SHOWS, &["#state", "Connected"]);
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

/// The log-out takes effect when a tab has connected again.
#[test]
fn late_log_out_is_no_removal_by_a_moderator() {
    let server = tokens::start();
    let app = App::start(&server);
    let browser = Browser::start();
    for path in ["/", "/shared"] {
        let tab = app.open(&browser, path);
        tab.until(SHOWS, &["#state", "Connected"]);
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
    let server = tokens::start();
    let app = App::start(&server);
    let browser = Browser::start();
    let host = app.open(&browser, "/shared");
    let (two, three) = (app.open(&browser, "/shared"), app.open(&browser, "/shared"));
    for tab in [&host, &two, &three] {
        tab.until(SHOWS, &["#state", "Connected"]);
    }
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

#[test]
fn page_has_a_list_of_rooms_with_their_unread_messages() {
    let server = tokens::start();
    let app = App::start(&server);
    let browser = Browser::start();
    let say_in = |room: &str, text: &str| {
        let body = json!({"message": text}).to_string();
        server.post(&format!("/api/rooms/{room}/messages"), KEY, &body);
    };
    say_in("help", "Said before");
    let tab = app.open(&browser, "/");
    tab.until(SHOWS, &["#state", "Connected"]);
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

/// The same without a worker.
#[test]
fn tabs_of_the_page_stay_out_while_one_logs_out() {
    let server = tokens::start();
    let app = App::start(&server);
    let browser = Browser::start();
    let (one, two) = (app.open(&browser, "/"), app.open(&browser, "/"));
    for tab in [&one, &two] {
        tab.until(SHOWS, &["#state", "Connected"]);
    }
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
        two.until(SHOWS, &["#state", "Connected"]);
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
    let server = tokens::start();
    let app = App::start(&server);
    let browser = Browser::start();
    for path in ["/", "/shared"] {
        let tab = app.open(&browser, path);
        tab.until(SHOWS, &["#state", "Connected"]);
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
    let server = tokens::start();
    let app = App::start(&server);
    let browser = Browser::start();
    let (one, two) = (app.open(&browser, "/shared"), app.open(&browser, "/shared"));
    for tab in [&one, &two] {
        tab.until(SHOWS, &["#state", "Connected"]);
    }
    one.run("window.fetch = async () => new Response('', { status: 403 })", &[]);
    press(&one, "#log-out");
    one.until(SHOWS, &["#failure", "You are not logged out."]);
    two.until(SHOWS, &["#state", "The chat is disconnected."]);
    press(&two, "#again");
    for tab in [&one, &two] {
        tab.until(SHOWS, &["#state", "Connected"]);
    }
    browser.assert_no_errors(&[]);
}

#[test]
fn log_out_of_the_page_is_one_in_all_tabs() {
    let server = tokens::start();
    let app = App::start(&server);
    let browser = Browser::start();
    let (one, two) = (app.open(&browser, "/"), app.open(&browser, "/"));
    for tab in [&one, &two] {
        tab.until(SHOWS, &["#state", "Connected"]);
    }
    let kept = app.open(&browser, "/");
    say(&kept, "Of Ann");
    kept.until(SHOWS, &["#log", "ann: Of Ann"]);
    kept.go(&app.url("/count"));
    say(&two, &"x".repeat(100_000));
    two.until("sessionStorage['unsent ann general'].includes('xxx')", &[]);
    press(&one, "#log-out");
    for tab in [&one, &two] {
        tab.until("location.pathname === '/login' && sessionStorage.length === 0", &[]);
    }
    // Nor is the page there behind the button "Back".
    two.run("history.back()", &[]);
    std::thread::sleep(Duration::from_millis(500));
    two.until("document.querySelector('#log') === null", &[]);
    // Nor in the back/forward cache.
    kept.run("history.back()", &[]);
    kept.until(SHOWS, &["#state", "You are logged out."]);
    kept.until("document.querySelector('#log').innerText === ''", &[]);
    server.until_metric("chat_connections ", |count| count == 0);
    browser.assert_no_errors(&["401"]);
}

#[test]
fn page_chats_although_its_storage_is_full() {
    let server = tokens::start();
    let app = App::start(&server);
    let browser = Browser::start();
    for path in ["/", "/shared"] {
        let tab = app.open(&browser, path);
        tab.until(SHOWS, &["#state", "Connected"]);
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

#[test]
fn page_sends_no_blank_message_and_says_that_a_token_is_refused() {
    let server = tokens::start();
    let app = App::start(&server);
    let browser = Browser::start();
    let tab = app.open(&browser, "/");
    tab.until(SHOWS, &["#state", "Connected"]);
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

/// Another tab keeps the worker, and so the room with the message that failed.
#[test]
fn refused_message_of_a_tab_is_a_draft_after_a_reload_and_no_row() {
    let server = tokens::start();
    let app = App::start(&server);
    let browser = Browser::start();
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
    let server = tokens::start();
    let app = App::start(&server);
    let browser = Browser::start();
    let tab = app.open(&browser, "/");
    tab.until(SHOWS, &["#state", "Connected"]);
    server.post("/api/rooms/general/kick", KEY, r#"{"user":"ann"}"#);
    tab.until(SHOWS, &["#state", "A moderator has removed you."]);
    say(&tab, "Hello");
    tab.until(SHOWS, &["#log", "ann: Hello It was not sent."]);
    press(&tab, "#again");
    tab.until(SHOWS, &["#state", "Connected"]);
    press(&tab, "#log [data-action=resend]");
    tab.until("document.querySelector('#log').innerText === 'ann: Hello'", &[]);
    browser.assert_no_errors(&[]);
}

/// While the browser shows another page, the user is away as after a tab was closed: gone from the room
/// after the grace, here a long one.
#[test]
fn page_in_the_back_forward_cache_has_no_connection() {
    let server =
        Server::start_with(&["--jwt-secret", SECRET, "--api-key", KEY, "--presence-grace", "60s"]);
    let app = App::start(&server);
    let browser = Browser::start();
    let tab = app.open(&browser, "/");
    tab.until(SHOWS, &["#state", "Connected"]);
    keep(&tab, &app);
    server.until_metric("chat_connections ", |count| count == 0);
    assert_eq!(member_count(&server), 1);
    server.post("/api/rooms/general/messages", KEY, r#"{"message":"Said meanwhile"}"#);
    show_again(&tab);
    tab.until(SHOWS, &["#state", "Connected"]);
    tab.until(SHOWS, &["#log", "Said meanwhile"]);
    say(&tab, "Back again");
    tab.until(SHOWS, &["#log", "ann: Back again"]);
    browser.assert_no_errors(&[]);
}

/// The worker goes on, for other tabs.
#[test]
fn tab_of_a_worker_in_the_back_forward_cache_is_in_no_room() {
    let server = tokens::start();
    let app = App::start(&server);
    let browser = Browser::start();
    let (one, two) = (app.open(&browser, "/shared"), app.open(&browser, "/shared?room=other"));
    for tab in [&one, &two] {
        tab.until(SHOWS, &["#state", "Connected"]);
    }
    server.until_metric("chat_rooms ", |count| count == 2);
    keep(&one, &app);
    server.until_metric("chat_rooms ", |count| count == 1);
    server.until_metric("chat_connections ", |count| count == 1);
    show_again(&one);
    server.until_metric("chat_rooms ", |count| count == 2);
    say(&one, "Back again");
    one.until(SHOWS, &["#log", "ann: Back again"]);
    browser.assert_no_errors(&[]);
}

/// Leaves a page for another one.
fn keep(tab: &Tab<'_>, app: &App) {
    tab.run("window.isTheSame = true", &[]);
    tab.go(&app.url("/login"));
}

/// Goes back to the page, which the browser has kept as it was.
fn show_again(tab: &Tab<'_>) {
    tab.run("history.back()", &[]);
    tab.until("window.isTheSame === true", &[]);
}

fn member_count(server: &Server) -> u64 {
    let headers = [&format!("X-Api-Key: {KEY}"), "Host: localhost"];
    let (status, _, body) = server.request("GET /api/rooms/general/members", &headers);
    assert_eq!(status, 200, "{body}");
    let members: serde_json::Value = serde_json::from_str(&body).unwrap();
    members["count"].as_u64().unwrap()
}

#[test]
fn tab_shows_what_a_worker_that_is_not_there_has_not_sent() {
    let server = tokens::start();
    let app = App::start(&server);
    let browser = Browser::start();
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
