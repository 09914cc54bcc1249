//! What tells the module `chat-client.js`, and with it the page, that a connection may have died.

use chat_broker::testing::{Direction, TcpProxy};
use serde_json::json;

use crate::AWAY;
use crate::fake::run;
use crate::server::Server;
use crate::webdriver::{Browser, Tab};

/// What browsers report after sleep, a change of network, or a return to the page.
const SIGNS: &str = "const signs = [
    () => window.dispatchEvent(new Event('online')),
    () => window.dispatchEvent(new Event('pageshow')),
    () => window.dispatchEvent(new Event('focus')),
    () => document.dispatchEvent(new Event('visibilitychange')),
    () => document.dispatchEvent(new Event('resume')),
    () => navigator.connection.dispatchEvent(new Event('change')),
    () => window.dispatchEvent(new Event('offline')),
];";

#[test]
fn signs_of_a_dead_line() {
    let server = Server::start();
    let browser = Browser::start();
    let tab = browser.open(&server.url("/"));
    each_sign_asks_the_server_at_once(&tab);
    each_sign_but_one_ends_a_pause(&tab);
    sign_before_the_end_of_the_connection_leaves_no_pause(&tab);
    sign_during_an_attempt_leaves_no_pause_after_it(&tab);
    late_frame_does_not_hide_a_dead_line(&tab);
    closed_client_takes_no_sign(&tab);
    missing_answer_finds_a_dead_line_before_the_send_fails(&tab);
    slow_server_is_not_dead(&tab);
    silence_of_a_slow_request_is_a_dead_line(&tab);
    dead_line_is_found_after_a_slow_request(&tab);
    browser.assert_no_errors(&[]);
}

fn each_sign_asks_the_server_at_once(tab: &Tab<'_>) {
    let result = run(
        tab,
        &format!(
            "{SIGNS}
            const {{ chat }} = await member({{ checkTimeoutMs: 30 }});
            const [socket] = sockets;
            const pings = [];
            for (const sign of signs) {{
                const before = socket.frames('ping').length;
                // Several come together, and ask once.
                sign();
                sign();
                pings.push(socket.frames('ping').length - before);
                socket.say({{ type: 'pong', id: socket.frames('ping').at(-1).id }});
            }}
            const {{ state }} = chat;
            signs[0]();
            await soon(() => chat.state !== 'online');
            chat.close();
            return {{ pings, state }};"
        ),
    );
    assert_eq!(result, json!({"pings": [1, 1, 1, 1, 1, 1, 1], "state": "online"}));
}

fn each_sign_but_one_ends_a_pause(tab: &Tab<'_>) {
    let result = run(
        tab,
        &format!(
            "{SIGNS}
            const {{ chat }} = await member({{ backoffBaseMs: 600_000, backoffCapMs: 600_000 }});
            const states = [];
            for (const sign of signs) {{
                sockets.at(-1).end(1006);
                sign();
                states.push(chat.state);
            }}
            chat.close();
            return states;"
        ),
    );
    let on = "connecting";
    assert_eq!(result, json!([on, on, on, on, on, on, "waiting"]));
}

/// A page that returns from the cache of the browser gets `pageshow` first. An answer ends the
/// matter, and the time of a `goodbye` counts.
fn sign_before_the_end_of_the_connection_leaves_no_pause(tab: &Tab<'_>) {
    let result = run(
        tab,
        &format!(
            "{SIGNS}
            const {{ chat }} = await member({{ backoffBaseMs: 600_000, backoffCapMs: 600_000 }});
            for (const sign of signs) {{
                sign();
                sockets.at(-1).end(1006);
                const count = sockets.length;
                await soon(() => sockets.length > count);
                await sockets.at(-1).welcome();
            }}
            const pauses = [];
            chat.on('state', ({{ retryInMs }}) => retryInMs !== undefined && pauses.push(retryInMs));
            signs[0]();
            const {{ id }} = sockets.at(-1).frames('ping').at(-1);
            sockets.at(-1).say({{ type: 'pong', id }});
            sockets.at(-1).end(1006);
            chat.connect();
            await sockets.at(-1).welcome();
            sockets.at(-1).say({{ type: 'goodbye', reconnect: true, after_ms: 5_000 }});
            signs[0]();
            sockets.at(-1).end(1006);
            chat.close();
            return pauses.map((pause) => pause > 1_000);"
        ),
    );
    assert_eq!(result, json!([true, true]));
}

/// The attempt may hang, since the network was dead when it began. The next one is an attempt as any other.
fn sign_during_an_attempt_leaves_no_pause_after_it(tab: &Tab<'_>) {
    let result = run(
        tab,
        &format!(
            "{SIGNS}
            const {{ chat }} = await member({{ backoffBaseMs: 600_000, backoffCapMs: 600_000 }});
            sockets.at(-1).end(1006);
            const hasPause = () => {{
                sockets.at(-1).end(1006);
                return chat.status.retryInMs > 0;
            }};
            const pauses = [];
            for (const sign of signs) {{
                chat.connect();
                sign();
                const first = hasPause();
                chat.connect();
                pauses.push([first, hasPause()]);
            }}
            chat.close();
            return pauses;"
        ),
    );
    let none = [false, true];
    assert_eq!(result, json!([none, none, none, none, none, none, [true, true]]));
}

/// A frame that was under way when the line died is no sign of life for long.
fn late_frame_does_not_hide_a_dead_line(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const { chat } = await member({ checkTimeoutMs: 50 });
            chat.check();
            sockets[0].say({ type: 'typing', room: 'r', user, typing: true });
            await soon(() => chat.state !== 'online');
            chat.close();
            return sockets[0].frames('ping').length;",
    );
    assert_eq!(result, 2);
}

fn closed_client_takes_no_sign(tab: &Tab<'_>) {
    let result = run(
        tab,
        &format!(
            "{SIGNS}
            let listeners = 0;
            const {{ addEventListener, removeEventListener }} = window;
            window.addEventListener = (...args) => addEventListener(...args, void (listeners += 1));
            window.removeEventListener = (...args) => removeEventListener(...args, void (listeners -= 1));
            const {{ chat }} = await member();
            const before = listeners;
            chat.close();
            Object.assign(window, {{ addEventListener, removeEventListener }});
            for (const sign of signs) sign();
            return [chat.state, sockets.length, before > 0, listeners];"
        ),
    );
    assert_eq!(result, json!(["closed", 1, true, 0]));
}

fn missing_answer_finds_a_dead_line_before_the_send_fails(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const { chat } = await member({ checkTimeoutMs: 50, sendTimeoutMs: 5_000 });
            const sent = chat.send('r', 'hi');
            await sockets[0].asked('ping');
            await soon(() => sockets[1]);
            await sockets[1].welcome();
            await sockets[1].joined({ epoch: 'abcdefgh', offset: 5 }, { recovered: true });
            await sockets[1].ok(1);
            const code = await codeOf(sent);
            chat.close();
            return code;",
    );
    assert_eq!(result, "none");
}

/// It answers late, but sends other frames.
fn slow_server_is_not_dead(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const { chat } = await member({ checkTimeoutMs: 60 });
            const [socket] = sockets;
            const sent = chat.send('r', 'hi');
            chat.check();
            for (let n = 0; n < 15; n += 1) {
                await new Promise((resolve) => setTimeout(resolve, 20));
                socket.say({ type: 'typing', room: 'r', user, typing: true });
            }
            await socket.ok(1);
            const outcome = [await codeOf(sent), chat.state, sockets.length];
            chat.close();
            return outcome;",
    );
    assert_eq!(result, json!(["none", "online", 1]));
}

/// The server reads no ping while it works on a join, a page of history, or a new token; and of a
/// large answer on a slow line a page sees nothing before it is complete. So the next connection
/// gives it twice the time.
fn silence_of_a_slow_request_is_a_dead_line(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const { chat } = await member({ checkTimeoutMs: 200, backoffBaseMs: 1 });
            const joined = chat.join('s');
            await soon(() => sockets[1]);
            await sockets[1].welcome();
            await sockets[1].asked('join', 2);
            await sockets[1].asked('ping');
            await new Promise((resolve) => setTimeout(resolve, 300));
            const { state } = chat;
            await sockets[1].joined({ epoch: 'abcdefgh', offset: 5 }, { recovered: true }, 1);
            await sockets[1].joined({}, {}, 2);
            const outcome = [await codeOf(joined), state, sockets.length];
            chat.close();
            return outcome;",
    );
    assert_eq!(result, json!(["none", "online", 2]));
}

/// A message that was behind it has 5 s again from then on.
fn dead_line_is_found_after_a_slow_request(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const { chat } = await member({ checkTimeoutMs: 50 });
            const joined = chat.join('s');
            chat.send('r', 'hi');
            await sockets[0].joined({}, {}, 2);
            await joined;
            const begin = Date.now();
            await soon(() => sockets[1]);
            const isQuick = Date.now() - begin < 5_000;
            chat.close();
            return isQuick;",
    );
    assert_eq!(result, true);
}

/// The network is lost in silence; the page knows soon after the browser has a sign, and its
/// message is sent over the next connection.
#[test]
fn page_finds_a_dead_line_at_the_first_sign() {
    let server = Server::start();
    let network = TcpProxy::start(server.port());
    let browser = Browser::start();
    let address = format!("/?port={}&user=Ann&room=general", network.port());
    let tab = browser.open(&server.url(&address));
    tab.until_shows("log", "You joined the room.");
    network.swallow(Direction::ToClient);
    tab.run("window.dispatchEvent(new Event('online'))", &[]);
    // A heartbeat would find it later than `until` waits.
    tab.until("!document.querySelector('#dot').classList.contains('online')", &[]);
    network.disconnect();
    network.restore();
    tab.run("window.dispatchEvent(new Event('online'))", &[]);
    tab.until_shows("connection", "Connected");
    browser.assert_no_errors(&[AWAY]);
}
