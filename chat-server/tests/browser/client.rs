//! The module `chat-client.js` against a server of the test's own making: what a real one
//! seldom does.

use chat_core::CloseReason;
use serde_json::json;

use crate::server::Server;
use crate::webdriver::{Browser, Tab};

/// Makes `sockets`, the connections in the order of their making; `client(options)`; and
/// `soon(condition)`, which waits.
const SETUP: &str = "
    const { ChatClient } = await import('/web/chat-client.js');
    const sockets = [];
    class Socket {
        readyState = 0;
        sent = [];
        constructor(url, protocols) {
            Object.assign(this, { url, protocols });
            sockets.push(this);
        }
        open() {
            this.readyState = 1;
            this.onopen();
        }
        send(text) { this.sent.push(JSON.parse(text)); }
        say(frame) { this.onmessage({ data: JSON.stringify(frame) }); }
        close(code) { this.readyState = 3; }
        end(code) {
            this.readyState = 3;
            this.onclose({ code, reason: '' });
        }
        async asked(type) {
            await soon(() => this.sent.some((frame) => frame.type === type));
            return this.sent.find((frame) => frame.type === type);
        }
        async welcome() {
            this.open();
            const { id } = await this.asked('hello');
            const user = { id: 'u1', name: 'Ann', color: '#FF6B6B' };
            const limits = { message_bytes: 10 };
            this.say({ type: 'welcome', id, user, resume: 'secret', limits });
        }
        async joined(position, more) {
            const { id, room } = await this.asked('join');
            this.say({ type: 'joined', id, room, ...position, members: [], count: 0, ...more });
        }
    }
    const soon = async (condition) => {
        const deadline = Date.now() + 10_000;
        while (!condition()) {
            if (Date.now() > deadline) throw new Error(`never: ${condition}`);
            await new Promise((resolve) => setTimeout(resolve, 2));
        }
    };
    const client = (options) => new ChatClient('ws://chat.example/ws', { WebSocket: Socket, name: 'Ann', ...options });
    const codeOf = (promise) => promise.then(() => 'none', (error) => error.code);
";

#[test]
fn the_module() {
    let server = Server::start();
    let browser = Browser::start();
    let tab = browser.open(&server.url("/"));
    comes_back_after_the_codes_that_say_so(&tab);
    sends_again_what_was_lost(&tab);
    obeys_a_goodbye_and_asks_into_silence(&tab);
    tells_errors_to_who_asked(&tab);
    drops_a_resume_that_no_longer_counts(&tab);
    browser.assert_no_errors(&[]);
}

fn run(tab: &Tab<'_>, script: &str) -> serde_json::Value {
    tab.run_async(&format!("{SETUP}{script}"), &[])
}

fn comes_back_after_the_codes_that_say_so(tab: &Tab<'_>) {
    for reason in CloseReason::ALL {
        let code = reason.code();
        let script = format!(
            "const chat = client();
                chat.connect();
                await sockets[0].welcome();
                sockets[0].end({code});
                const {{ state }} = chat;
                chat.close();
                return state;"
        );
        let expected = if reason.may_reconnect() { "waiting" } else { "closed" };
        assert_eq!(run(tab, &script), expected, "{code}");
    }
}

fn sends_again_what_was_lost(tab: &Tab<'_>) {
    let result = run(
            tab,
            "const chat = client({ backoffBaseMs: 1, queueLimit: 2 });
            const gaps = [], seen = [];
            chat.on('gap', ({ room, offset }) => gaps.push([room, offset]));
            chat.on('message', ({ offset }) => seen.push(offset));
            chat.connect();
            await sockets[0].welcome();
            chat.join('r');
            await sockets[0].joined({ epoch: 'abcdefgh', offset: 5 });
            const [user, room] = [chat.user, 'r'];
            for (const offset of [6, 6, 7, 9]) sockets[0].say({ type: 'message', room, user, message: '', offset });
            const first = chat.send('r', 'one', { key: 'k1' });
            const second = chat.send('r', 'two', { key: 'k2' });
            const refused = [await codeOf(chat.send('r', 'three')), await codeOf(chat.send('r', 'x'.repeat(11)))];
            sockets[0].end(1006);
            await soon(() => sockets[1]);
            await sockets[1].welcome();
            const { resume } = await sockets[1].asked('hello');
            const { since } = await sockets[1].asked('join');
            await sockets[1].joined({ epoch: 'abcdefgh', offset: 11 }, {
                recovered: true,
                messages: [10, 11].map((offset) => ({ offset, user, message: '', key: offset === 11 ? 'k1' : 'other' })),
            });
            const again = sockets[1].sent.filter(({ type }) => type === 'send');
            sockets[1].say({ type: 'ok', id: again[0].id, offset: 12, epoch: 'abcdefgh' });
            const offsets = [(await first).offset, (await second).offset];
            chat.close();
            return { resume, since, gaps, seen, refused, again: again.map(({ key }) => key), offsets };",
        );
    assert_eq!(result["resume"], "secret");
    assert_eq!(result["since"], json!({"epoch": "abcdefgh", "offset": 9}));
    assert_eq!(result["gaps"], json!([["r", 7]]), "one, and none where all was recovered");
    assert_eq!(result["seen"], json!([6, 7, 9, 10, 11]));
    assert_eq!(result["refused"], json!(["queue_full", "message_too_long"]));
    assert_eq!(result["again"], json!(["k2"]), "the first had been taken");
    assert_eq!(result["offsets"], json!([11, 12]));
}

fn obeys_a_goodbye_and_asks_into_silence(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const chat = client({ backoffBaseMs: 0, pingAfterMs: 20, pongTimeoutMs: 20 });
            const pauses = [];
            chat.on('state', ({ retryInMs }) => retryInMs !== undefined && pauses.push(retryInMs));
            chat.connect();
            await sockets[0].welcome();
            await sockets[0].asked('ping');
            await soon(() => sockets[1]);
            await sockets[1].welcome();
            sockets[1].say({ type: 'goodbye', reason: 'shutdown', reconnect: true, after_ms: 30 });
            sockets[1].end(1001);
            await soon(() => sockets[2]);
            await sockets[2].welcome();
            sockets[2].say({ type: 'goodbye', reason: 'moved', reconnect: false, after_ms: 0 });
            sockets[2].end(1001);
            return { pauses, state: chat.state, connections: sockets.length };",
    );
    assert_eq!(result, json!({"pauses": [0, 30], "state": "closed", "connections": 3}));
}

fn tells_errors_to_who_asked(tab: &Tab<'_>) {
    let result = run(
            tab,
            "const chat = client({ requestTimeoutMs: 20 });
            const offline = await codeOf(chat.members('r'));
            chat.connect();
            await sockets[0].welcome();
            const join = chat.join('r');
            const { id } = await sockets[0].asked('join');
            sockets[0].say({ type: 'error', id, code: 'forbidden', message: 'No.' });
            const refused = await codeOf(join);
            const timeout = await codeOf(chat.members('r'));
            const { rooms } = chat;
            const direct = chat.direct('u2', 'hi');
            chat.close();
            return [offline, refused, rooms.length, timeout, await codeOf(direct), await codeOf(chat.send('r', ''))];",
        );
    let expected = json!(["offline", "forbidden", 0, "timeout", "disconnected", "not_in_room"]);
    assert_eq!(result, expected);
}

fn drops_a_resume_that_no_longer_counts(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const chat = client({ resume: 'old' });
            chat.connect();
            sockets[0].open();
            const { id } = await sockets[0].asked('hello');
            sockets[0].say({ type: 'error', id, code: 'unauthorized', message: 'No.' });
            await soon(() => sockets[0].sent.length === 2);
            const tries = sockets[0].sent.map(({ resume }) => resume ?? null);
            chat.close();
            return tries;",
    );
    assert_eq!(result, json!(["old", null]));
}
