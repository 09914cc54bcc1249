//! The page as axe-core sees it: in each state that it may be in, on a desktop and on a phone, in
//! both themes. <https://github.com/dequelabs/axe-core>, a package of npm that `.ci/install` installs.

use chat_broker::testing::TcpProxy;
use serde_json::Value;

use crate::AWAY;
use crate::server::Server;
use crate::tokens::{HOUR, KEY, start as start_with_tokens, token};
use crate::webdriver::{Browser, Tab};

const AXE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/npm/node_modules/axe-core/axe.min.js");

#[test]
fn axe_finds_nothing_on_a_desktop() {
    let browser = Browser::start();
    let open = |url: &str| browser.open(url);
    check_all(&open);
    browser.assert_no_errors(&[AWAY, "net::ERR"]);
}

#[test]
fn axe_finds_nothing_on_a_phone() {
    let browser = Browser::start();
    let open = |url: &str| browser.open_phone(url);
    check_all(&open);
    browser.assert_no_errors(&[AWAY, "net::ERR"]);
}

fn check_all<'a>(open: &dyn Fn(&str) -> Tab<'a>) {
    check_the_start(open);
    check_rooms(open);
    check_a_lost_connection(open);
    check_what_moderators_do(open);
}

fn check_the_start<'a>(open: &dyn Fn(&str) -> Tab<'a>) {
    let server = Server::start();
    let tab = open(&server.url("/"));
    tab.until_shows("name", "");
    check(&tab, "the start");
    tab.go(&server.url("/join-room/general"));
    tab.until_shows("name", "");
    check(&tab, "an invitation");
    tab.go(&server.url(&format!("/?user=Ann&room={}", "r".repeat(129))));
    tab.until_shows("start-error", "This is no name for a room");
    check(&tab, "a room that cannot be");
}

fn check_rooms<'a>(open: &dyn Fn(&str) -> Tab<'a>) {
    let server = Server::start();
    let tab = open(&server.url("/?user=Ann&room=general"));
    tab.until_shows("log", "You joined the room.");
    check(&tab, "an empty room");

    let other = open(&server.url("/?user=Bob&room=general"));
    say(&other, "Hello, see https://example.com");
    say(&other, "And once more");
    say(&tab, "Mine, with https://example.org");
    tab.until_shows("log", "Hello");
    other.fill("message", "I am ty");
    tab.until_shows("typing", "Bob is typing");
    check(&tab, "a conversation");
    if tab.run("return document.getElementById('people').checkVisibility()", &[]) == true {
        tab.click("people");
    }
    tab.until_shows("members", "Bob");
    check(&tab, "the list of members");

    tab.click("add-room");
    tab.until_shows("add-name", "");
    check(&tab, "the dialog that adds a room");
    tab.fill("add-name", "second");
    tab.click("add-join");
    tab.until_shows("title", "second");
    say(&other, "Unread");
    tab.until_shows("rooms", "1");
    check(&tab, "two rooms, one of them unread");
    tab.click("share");
    tab.until_shows("link", "");
    check(&tab, "the link for others");
    tab.click("share-close");

    say_lines(&tab, 30);
    tab.run("document.getElementById('scroller').scrollTop = 0", &[]);
    tab.until_shows("newest", "");
    check(&tab, "a log that is scrolled up");
    say(&tab, &"long ".repeat(6_600));
    tab.until_shows("unsent", "Not sent");
    check(&tab, "a message that was not sent");
}

fn check_a_lost_connection<'a>(open: &dyn Fn(&str) -> Tab<'a>) {
    let server = Server::start();
    let network = TcpProxy::start(server.port());
    let writer = open(&server.url("/?user=Bob&room=general"));
    writer.until_shows("log", "You joined the room.");
    say_lines(&writer, 60);
    network.disconnect();
    let tab = open(&server.url(&format!("/?port={}&user=Ann&room=general", network.port())));
    tab.until_shows("banner", "");
    check(&tab, "a connection that is not there yet");
    network.restore();
    tab.run("document.getElementById('retry').click()", &[]);
    tab.until_shows("log", "You joined the room.");
    network.disconnect();
    tab.until_shows("banner", "Connection lost.");
    say(&tab, "Written in between");
    tab.until_shows("unsent", "Sending");
    check(&tab, "a lost connection");
    tab.run("document.getElementById('scroller').scrollTop = 0", &[]);
    tab.until_shows("older", "Try again");
    check(&tab, "older messages that did not come");
}

fn check_what_moderators_do<'a>(open: &dyn Fn(&str) -> Tab<'a>) {
    let server = start_with_tokens();
    let tab = open(&server.url("/?room=general"));
    tab.click("join");
    tab.until_shows("start-error", "This chat asks for a token.");
    check(&tab, "a token that is missing");

    let token = token("*", HOUR);
    tab.go(&server.url(&format!("/?room=general#token={token}")));
    tab.until_shows("log", "You joined the room.");
    let reason = r#"{"user":"u-ann","reason":"Calm down."}"#;
    server.post("/api/rooms/general/kick", KEY, reason);
    tab.until_shows("start-error", "You were removed from the room: Calm down.");
    check(&tab, "a kick");

    tab.click("join");
    tab.until_shows("log", "You joined the room.");
    tab.click("add-room");
    tab.fill("add-name", "second");
    tab.click("add-join");
    tab.until_shows("log", "You joined the room.");
    server.post("/api/rooms/general/ban", KEY, reason);
    tab.until_shows("log", "You are banned from this room: Calm down.");
    check(&tab, "a ban from another room");
    server.post("/api/users/u-ann/disconnect", KEY, r#"{"seconds":60}"#);
    tab.until_shows("banner", "Disconnected: you are banned.");
    check(&tab, "a ban");
}

fn say(tab: &Tab<'_>, text: &str) {
    tab.run("document.getElementById('message').value = arguments[0]", &[text]);
    tab.click("send");
}

fn say_lines(tab: &Tab<'_>, count: usize) {
    let script = format!(
        "for (let n = 1; n <= {count}; n += 1) {{
            document.getElementById('message').value = `line ${{n}}.`;
            document.getElementById('composer').requestSubmit();
        }}"
    );
    tab.run(&script, &[]);
    tab.until_shows("log", &format!("line {count}."));
}

/// Fails if axe-core finds a violation of any of its rules; themes differ in colours alone.
pub(crate) fn check(tab: &Tab<'_>, state: &str) {
    let source = std::fs::read_to_string(AXE).expect("axe-core is missing: .ci/install");
    if tab.run("return typeof axe", &[]) == "undefined" {
        tab.run(&source, &[]);
    }
    let all = "{ rules: { 'target-size': { enabled: true } } }";
    let colours = "{ runOnly: ['color-contrast', 'link-in-text-block'] }";
    for (theme, options) in [("light", all), ("dark", colours)] {
        tab.set_theme(theme);
        let script = format!(
            "const {{ violations }} = await axe.run(document, {{ resultTypes: ['violations'], ...{options} }});
            return violations.map(({{ id, help, nodes }}) =>
                [id, help, ...nodes.map(({{ html, failureSummary }}) => `${{html}} ${{failureSummary}}`)]);"
        );
        let violations = tab.run_async(&script, &[]);
        assert_eq!(violations, Value::Array(Vec::new()), "{state}, {theme}");
    }
}
