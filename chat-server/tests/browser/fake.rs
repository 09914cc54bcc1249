//! A server of the test's own making for the module `chat-client.js`: what a real one seldom
//! does.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::server::Server;
use crate::webdriver::{Browser, Tab};

/// Makes `sockets`, the connections in the order of their making; `client(options)`, and
/// `member(options, position, welcome)`, one that is in room `r` and what it hears there; and
/// `soon(condition)`, which waits.
const SETUP: &str = "
    const { ChatClient } = await import('/web/chat-client.js');
    const sockets = [];
    class Socket {
        readyState = 0;
        sent = [];
        times = [];
        constructor(url, protocols) {
            Object.assign(this, { url, protocols });
            sockets.push(this);
        }
        open() {
            this.readyState = 1;
            this.onopen();
        }
        send(text) {
            this.sent.push(JSON.parse(text));
            this.times.push(performance.now());
        }
        say(frame) { this.onmessage?.({ data: JSON.stringify(frame) }); }
        close(code) { this.readyState = 3; }
        end(code) {
            this.readyState = 3;
            this.onclose?.({ code, reason: '' });
        }
        frames(type) { return this.sent.filter((frame) => frame.type === type); }
        async asked(type, nth = 1) {
            await soon(() => this.frames(type).length >= nth);
            return this.frames(type)[nth - 1];
        }
        async welcome(userId = 'u1', more) {
            if (this.readyState === 0) this.open();
            const { id } = this.frames('hello').at(-1) ?? (await this.asked('hello'));
            const user = { id: userId, name: 'Ann', color: '#FF6B6B' };
            const limits = { message_bytes: 10 };
            this.say({ type: 'welcome', id, user, resume: 'secret', limits, ...more });
        }
        async ok(nth, place) {
            const { id } = await this.asked('send', nth);
            this.say({ type: 'ok', id, epoch: 'abcdefgh', offset: 1, ...place });
        }
        async refuse(type, nth, code, more) {
            const { id } = await this.asked(type, nth);
            this.say({ type: 'error', id, code, message: 'No.', ...more });
        }
        async joined(position, more, nth) {
            const { id, room } = await this.asked('join', nth);
            this.say({ type: 'joined', id, room, recovered: false, ...position, members: [], count: 0, messages: [], ...more });
        }
    }
    const soon = async (condition) => {
        const deadline = Date.now() + 10_000;
        while (!condition()) {
            if (Date.now() > deadline) throw new Error(`never: ${condition}`);
            await new Promise((resolve) => setTimeout(resolve, 2));
        }
    };
    const user = { id: 'u2', name: 'Bob', color: '#F28C38' };
    const message = (offset, more) => ({ type: 'message', room: 'r', offset, user, message: '', ...more });
    const client = (options) => new ChatClient('ws://chat.example/ws', { WebSocket: Socket, name: 'Ann', ...options });
    const member = async (options, position = { epoch: 'abcdefgh', offset: 5 }, welcome) => {
        const chat = client({ backoffBaseMs: 1, ...options });
        const heard = [];
        chat.on('joined', ({ rejoined }) => heard.push(rejoined ? 'rejoined' : 'joined'));
        chat.on('gap', ({ offset }) => heard.push(offset === undefined ? 'gap' : `gap ${offset}`));
        chat.on('message', ({ offset, message }) => heard.push(message || offset));
        chat.connect();
        await soon(() => sockets[0]);
        await sockets[0].welcome('u1', welcome);
        const join = chat.join('r');
        await sockets[0].joined(position);
        await join;
        return { chat, heard };
    };
    const codeOf = (promise) => promise.then(() => 'none', (error) => error.code);
";

/// Runs a script in the page with what [`SETUP`] makes.
pub(crate) fn run(tab: &Tab<'_>, script: &str) -> serde_json::Value {
    tab.run_async(&format!("{SETUP}{script}"), &[])
}

/// Functions on a page, each with its name.
macro_rules! cases {
    ($($case:ident),+ $(,)?) => {
        [$((stringify!($case), $case as fn(&crate::webdriver::Tab<'_>))),+]
    };
}
pub(crate) use cases;

/// A function on a page, and its name.
pub(crate) type Case = (&'static str, fn(&Tab<'_>));

/// Runs all cases in one page, and then fails with the names of those that failed. The page logs no
/// errors but those in `but_for`.
pub(crate) fn run_cases(cases: &[Case], but_for: &[&str]) {
    let server = Server::start();
    let browser = Browser::start();
    let tab = browser.open(&server.url("/"));
    let fails = |case: fn(&Tab<'_>)| catch_unwind(AssertUnwindSafe(|| case(&tab))).is_err();
    let failed: Vec<_> = cases.iter().filter(|case| fails(case.1)).map(|case| case.0).collect();
    assert!(failed.is_empty(), "failed: {failed:?}");
    browser.assert_no_errors(but_for);
}
