//! The page and the module on a server that asks for tokens.

use std::collections::BTreeMap;
use std::time::Duration;

use chat_core::UserId;
use chat_server::{JwtSigner, TokenClaims};
use serde_json::json;

use crate::fake::{cases, run, run_cases};
use crate::server::Server;
use crate::webdriver::{Browser, Tab};

pub(crate) const SECRET: &str = "a secret of thirty-two bytes or more";
pub(crate) const KEY: &str = "a key for backends";

pub(crate) fn start() -> Server {
    Server::start_with(&["--jwt-secret", SECRET, "--api-key", KEY, "--token-grace", "1s"])
}

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// Ann's token, good for the rooms of this pattern.
pub(crate) fn token(rooms: &str, lifetime: Duration) -> String {
    let mut claims = TokenClaims::new(&UserId::new("u-ann").unwrap(), lifetime);
    claims.name = Some("Ann".to_owned());
    let member = ["join", "send", "history", "presence"].map(str::to_owned);
    claims.rooms = Some(BTreeMap::from([(rooms.to_owned(), member.to_vec())]));
    JwtSigner::with_secret(SECRET.as_bytes()).unwrap().sign(&claims).unwrap()
}

/// The token of a user who may do everything, for an hour.
pub(crate) fn moderator_token() -> String {
    let mut claims = TokenClaims::new(&UserId::new("u-mod").unwrap(), HOUR);
    claims.rooms = Some(BTreeMap::from([("*".to_owned(), vec!["*".to_owned()])]));
    JwtSigner::with_secret(SECRET.as_bytes()).unwrap().sign(&claims).unwrap()
}

#[test]
fn the_page_says_that_a_token_is_needed_and_takes_it_from_its_address() {
    let server = start();
    let browser = Browser::start();
    let tab = browser.open(&server.url("/?room=general"));
    tab.click("join");
    tab.until_shows("start-error", "This chat asks for a token.");
    // Another name changes nothing; the client that was refused connects once more.
    let welcomes = "window.attempts = 0;
        const error = document.getElementById('start-error');
        new MutationObserver(() => error.textContent && (attempts += 1)).observe(error, { childList: true })";
    tab.run(welcomes, &[]);
    tab.fill("name", "Bob");
    tab.click("join");
    tab.until("attempts > 0", &[]);

    let token = token("general", HOUR);
    tab.go(&server.url(&format!("/?room=general#token={token}")));
    tab.until_shows("log", "You joined the room.");
    tab.until_shows("me", "Ann");
    hides(&tab, &token);
    tab.run("location.reload()", &[]);
    tab.until_shows("connection", "Connected");
    tab.until_shows("log", "You joined the room.");
    hides(&tab, &token);
    browser.assert_no_errors(&[]);
}

/// Neither the address nor the link for others tells the token.
fn hides(tab: &Tab<'_>, token: &str) {
    tab.click("share");
    let link = tab.until("document.querySelector('[data-testid=link]').value", &[]);
    tab.click("share-close");
    let address = tab.run("return location.href", &[]);
    for shown in [&link, &address] {
        assert!(shown.as_str().unwrap().ends_with("/join-room/general"), "{shown}");
    }
    let page = tab.run("return document.documentElement.outerHTML", &[]);
    assert!(!page.as_str().unwrap().contains(token));
}

#[test]
fn a_token_in_the_query_and_a_room_of_ones_own() {
    let server = start();
    let browser = Browser::start();
    let tab = browser.open(&server.url(&format!("/?token={}", token("*", HOUR))));
    tab.until_shows("room", "");
    tab.until_hidden("name");
    assert_eq!(tab.run("return location.search + location.hash", &[]), "");
    tab.click("create");
    tab.until_shows("link", "");
    let link = tab.until("document.querySelector('[data-testid=link]').value", &[]);
    assert!(!link.as_str().unwrap().contains("token"), "{link}");
    tab.click("share-close");
    tab.until_shows("me", "Ann");
    tab.until_shows("log", "You joined the room.");
    browser.assert_no_errors(&[]);
}

#[test]
fn the_page_says_what_moderators_did() {
    let server = start();
    let browser = Browser::start();
    let token = token("*", HOUR);
    let open = |room: &str| browser.open(&server.url(&format!("/?room={room}#token={token}")));
    let tab = open("general");
    tab.until_shows("log", "You joined the room.");
    let calm = r#"{"user":"u-ann","reason":"Calm down."}"#;
    server.post("/api/rooms/general/kick", KEY, calm);
    tab.until_shows("start-error", "You were removed from the room: Calm down.");
    tab.click("join");
    tab.until_shows("log", "You joined the room.");
    server.post("/api/rooms/general/ban", KEY, calm);
    tab.until_shows("start-error", "You are banned from this room: Calm down.");
    tab.click("join");
    tab.until_shows("start-error", "You are banned from this room: Calm down.");

    let tab = open("other");
    tab.until_shows("log", "You joined the room.");
    server.post("/api/users/u-ann/disconnect", KEY, "{}");
    tab.until_shows("banner", "Disconnected: a moderator ended the connection.");
    // A room that is added without a connection is joined with the next one.
    tab.click("add-room");
    tab.fill("add-name", "third");
    tab.click("add-join");
    tab.until_shows("title", "third");
    tab.click("retry");
    tab.until_hidden("banner");
    tab.until_shows("log", "You joined the room.");
    server.post("/api/users/u-ann/disconnect", KEY, r#"{"reason":"Calm down."}"#);
    tab.until_shows("banner", "Disconnected: a moderator ended the connection: Calm down.");
    tab.click("retry");
    tab.until_hidden("banner");
    server.post("/api/users/u-ann/disconnect", KEY, r#"{"seconds":60,"reason":"Spam."}"#);
    tab.until_shows("banner", "Disconnected: you are banned: Spam.");
    browser.assert_no_errors(&[]);
}

#[test]
fn the_page_says_what_a_token_does_not_allow_and_that_it_has_run_out() {
    let server = start();
    let browser = Browser::start();
    let narrow = token("general", HOUR);
    let tab = browser.open(&server.url(&format!("/?room=secret#token={narrow}")));
    tab.until_shows("start-error", "You have no permission for this.");

    let short = token("*", Duration::from_secs(2));
    let tab = browser.open(&server.url(&format!("/?room=general#token={short}")));
    tab.until_shows("banner", "Disconnected: your access has run out.");
    browser.assert_no_errors(&[]);
}

/// It knows the rate, so the server has nothing to refuse.
#[test]
fn page_keeps_the_rate_of_the_server() {
    let server = Server::start_with(&["--rate", "1/4"]);
    let browser = Browser::start();
    let tab = browser.open(&server.url("/?user=Ann&room=general"));
    tab.until_shows("log", "You joined the room.");
    for n in 1..=5 {
        tab.fill("message", &format!("number {n}"));
        tab.click("send");
    }
    tab.until_shows("unsent", "Sending …");
    for n in 1..=5 {
        tab.until_shows("log", &format!("number {n}"));
    }
    tab.until_hidden("unsent");
    let (_, _, metrics) = server.request("GET /metrics", &["Host: localhost"]);
    assert!(metrics.contains("chat_rejected_total{code=\"rate_limited\"} 0\n"), "{metrics}");
    browser.assert_no_errors(&[]);
}

/// The module with a token that takes longer than the server waits for one.
#[test]
fn slow_token_is_no_obstacle() {
    let server = Server::start_with(&["--jwt-secret", SECRET, "--auth-timeout", "1s"]);
    let browser = Browser::start();
    let tab = browser.open(&server.url("/"));
    let script = "const { ChatClient } = await import('/web/chat-client.js');
        const token = async () => {
            await new Promise((resolve) => setTimeout(resolve, 1500));
            return arguments[0];
        };
        const chat = new ChatClient(`ws://${location.host}/ws`, { token });
        const states = [];
        chat.on('state', ({ state }) => states.push(state));
        const { user } = await chat.connect();
        chat.close();
        return [user.name, states];";
    let script = script.replace("arguments[0]", &json!(token("*", HOUR)).to_string());
    let expected = json!(["Ann", ["connecting", "online", "closed"]]);
    assert_eq!(tab.run_async(&script, &[]), expected);
    browser.assert_no_errors(&[]);
}

/// `?port=` names another server, which gets none of them.
#[test]
fn page_keeps_its_secrets_to_the_server_that_they_are_for() {
    let (page, other) = (start(), start());
    let browser = Browser::start();
    let tab = browser.open(&page.url("/"));
    // As earlier versions stored it, without its server.
    let old = format!(
        "sessionStorage.setItem('chat', JSON.stringify({{ token: '{}' }}))",
        token("*", HOUR)
    );
    tab.run(&old, &[]);
    tab.go(&page.url("/?room=general"));
    tab.click("join");
    tab.until_shows("start-error", "This chat asks for a token.");
    assert_eq!(tab.run("return sessionStorage.getItem('chat')", &[]), json!(null));

    tab.go(&page.url(&format!("/?room=general#token={}", token("*", HOUR))));
    tab.until_shows("log", "You joined the room.");
    let at_other = format!("/?room=general&port={}", other.port());
    tab.go(&page.url(&at_other));
    tab.click("join");
    tab.until_shows("start-error", "This chat asks for a token.");
    let server = format!("localhost:{}", other.port());
    let stored = format!("return sessionStorage.getItem('chat http://{server}') ?? ''");
    let stored = tab.run(&stored, &[]);
    assert!(!stored.as_str().unwrap().contains("token"), "{stored}");

    // One of its own is no obstacle, and the first one is kept.
    tab.go(&page.url(&format!("{at_other}#token={}", token("*", HOUR))));
    tab.until_shows("log", "You joined the room.");
    tab.go(&page.url("/?room=general"));
    tab.until_shows("log", "You joined the room.");
    let servers = "return Object.keys(sessionStorage).length";
    assert_eq!(tab.run(servers, &[]), 2);
    browser.assert_no_errors(&[]);
}

#[test]
fn tokens_of_the_module() {
    let cases = cases![
        renews_in_time_and_stays_where_it_is,
        asks_again_for_a_token_that_does_not_come,
        connects_when_it_has_its_token,
        ends_when_there_will_be_no_token,
        ends_when_a_token_will_not_be_renewed,
        ends_a_room_that_it_is_put_out_of,
    ];
    run_cases(&cases, &[]);
}

fn renews_in_time_and_stays_where_it_is(tab: &Tab<'_>) {
    let result = run(
        tab,
        "let count = 0;
            const token = async () => `t${++count}`;
            const { chat } = await member({ token }, undefined, { expires_in_ms: 1500 });
            const [first] = sockets;
            await first.asked('hello', 2);
            await first.welcome('u1', { expires_in_ms: 0 });
            await first.asked('hello', 3);
            await first.refuse('hello', 3, 'broker_unavailable');
            first.say({ type: 'goodbye', reason: 'token_expired', reconnect: false, after_ms: 0 });
            first.end(4004);
            await soon(() => sockets[1]);
            await sockets[1].welcome();
            const tokens = sockets.map((socket) => socket.frames('hello').map(({ token }) => token));
            const joins = sockets.map((socket) => socket.frames('join').length);
            chat.close();
            return { tokens, joins };",
    );
    assert_eq!(result, json!({"tokens": [["t1", "t2", "t3"], ["t4"]], "joins": [1, 1]}));
}

fn asks_again_for_a_token_that_does_not_come(tab: &Tab<'_>) {
    let result = run(
        tab,
        "let count = 0;
            const token = async () => {
                count += 1;
                if (count === 1) throw new Error('the backend is away');
                return `t${count}`;
            };
            const chat = client({ token, backoffBaseMs: 1 });
            const reasons = [];
            chat.on('state', ({ reason }) => reason && reasons.push(reason));
            chat.connect();
            await soon(() => sockets[0]);
            await sockets[0].welcome();
            const { state } = chat;
            chat.close();
            return [state, reasons[0], sockets[0].sent[0].token];",
    );
    let expected = json!(["online", "There is no token: the backend is away", "t2"]);
    assert_eq!(result, expected);
}

/// The server does not wait for it, so there is no connection before.
fn connects_when_it_has_its_token(tab: &Tab<'_>) {
    let result = run(
        tab,
        "let count = 0;
            let give;
            const token = () => {
                count += 1;
                return new Promise((resolve) => (give = resolve));
            };
            const chat = client({ token, connectTimeoutMs: 30 });
            const states = [];
            chat.on('state', ({ state }) => states.push(state));
            const connected = chat.connect();
            chat.connect();
            await new Promise((resolve) => setTimeout(resolve, 100));
            const early = sockets.length;
            // The next attempt uses the token of one that was abandoned.
            const renamed = chat.rename('Bob');
            give('late');
            await soon(() => sockets[0]);
            await sockets[0].welcome();
            await Promise.all([connected, renamed]);
            chat.close();
            return { early, states, count, token: sockets[0].sent[0].token, sockets: sockets.length };",
    );
    let states = ["connecting", "connecting", "online", "closed"];
    let expected = json!({"early": 0, "states": states, "count": 1, "token": "late", "sockets": 1});
    assert_eq!(result, expected);
}

/// An error says so by its code, of whatever class it is; and so does nothing.
fn ends_when_there_will_be_no_token(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const { ChatError } = await import('/web/chat-client.js');
            const tokens = [
                async () => { throw new ChatError('unauthorized', 'You have logged out.'); },
                () => { throw Object.assign(new Error('You have logged out.'), { code: 'unauthorized' }); },
                async () => null,
                () => undefined,
                () => '',
            ];
            const outcomes = [];
            for (const token of tokens) {
                let count = 0;
                const chat = client({ token: () => token(count += 1), backoffBaseMs: 1 });
                const joined = codeOf(chat.join('r'));
                const sent = codeOf(chat.send('r', 'hi'));
                let closed;
                chat.on('state', (change) => (closed = change));
                const error = await chat.connect().catch((error) => error);
                await new Promise((resolve) => setTimeout(resolve, 20));
                const { state, reason } = closed;
                outcomes.push([error.code, state, reason, closed.error.code, await joined, await sent, count, sockets.length]);
            }
            return outcomes;",
    );
    let end = |reason: &str| {
        let code = "unauthorized";
        json!([code, "closed", reason, code, code, code, 1, 0])
    };
    let [out, none] = [end("You have logged out."), end("There is no token.")];
    assert_eq!(result, json!([out, out, none, none, none]));
}

fn ends_when_a_token_will_not_be_renewed(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const tokens = ['t1', null];
            const renewed = { token: async () => tokens.shift() };
            const { chat } = await member(renewed, undefined, { expires_in_ms: 1500 });
            const sent = codeOf(chat.send('r', 'hi'));
            await soon(() => chat.state === 'closed');
            const { readyState } = sockets[0];
            // Until the user has logged in again.
            tokens.push('t3');
            chat.connect();
            await soon(() => sockets[1]);
            await sockets[1].welcome();
            const { token } = sockets[1].frames('hello')[0];
            chat.close();
            return { sent: await sent, readyState, token };",
    );
    assert_eq!(result, json!({"sent": "outcome_unknown", "readyState": 3, "token": "t3"}));
}

fn ends_a_room_that_it_is_put_out_of(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const { chat, heard } = await member();
            chat.on('left', ({ reason, message }) => heard.push(`${reason}: ${message}`));
            const sent = codeOf(chat.send('r', 'hi'));
            await sockets[0].asked('send');
            sockets[0].say({ type: 'left', room: 'r', reason: 'kicked', message: 'Out.' });
            const { rooms } = chat;
            sockets[0].end(1006);
            await soon(() => sockets[1]);
            await sockets[1].welcome();
            const joins = sockets[1].frames('join').length;
            chat.close();
            return { heard, sent: await sent, rooms, joins };",
    );
    let expected = json!({
        "heard": ["joined", "kicked: Out."], "sent": "outcome_unknown", "rooms": [], "joins": 0,
    });
    assert_eq!(result, expected);
}
