//! The module `chat-client.js` keeps the rates that the server gives in `welcome`, and nothing
//! fails for it.

use serde_json::json;

use crate::fake::{cases, run, run_cases};
use crate::server::Server;
use crate::webdriver::{Browser, Tab};

#[test]
fn pace_of_the_module() {
    let cases = cases![
        frames_wait_for_their_rate_and_pings_do_not,
        joins_wait_for_their_rate_and_hold_nothing_up,
        join_that_is_not_wanted_any_more_is_not_sent,
        bytes_wait_for_their_rate,
        waiting_for_its_turn_makes_no_message_late,
        messages_unanswered_are_limited_over_all_rooms,
        requests_unanswered_are_limited,
        requests_that_wait_are_limited,
    ];
    run_cases(&cases, &[]);
}

/// A script with the `limits` of a server with these rates.
fn at(rates: &str, script: &str) -> String {
    format!("const limits = {{ message_bytes: 40_000, ...{rates} }};{script}")
}

/// They wait for longer than requests and pings do for their answers.
fn frames_wait_for_their_rate_and_pings_do_not(tab: &Tab<'_>) {
    let script = at(
        "{ frames: { per_second: 20, burst: 5 } }",
        "const options = { requestTimeoutMs: 500, pingAfterMs: 300, pongTimeoutMs: 5_000 };
            const { chat } = await member(options, undefined, { limits });
            const asked = Array.from({ length: 25 }, () => chat.members('r'));
            chat.typing('r', true);
            for (let n = 0; n < 25; n += 1) {
                const { id } = await sockets[0].asked('members', n + 1);
                sockets[0].say({ type: 'members', id, room: 'r', members: [], count: n });
            }
            const counts = (await Promise.all(asked)).map(({ count }) => count);
            const [socket] = sockets;
            const times = socket.times.filter((_, n) => socket.sent[n].type !== 'ping');
            // The first is the hello, and the burst has five.
            const isPaced = times.every((time, n) => time - times[0] >= (n - 5) * 50);
            await socket.asked('ping');
            chat.close();
            return { counts, isPaced, typed: socket.frames('typing').length };",
    );
    let counts: Vec<u32> = (0..25).collect();
    assert_eq!(run(tab, &script), json!({"counts": counts, "isPaced": true, "typed": 0}));
}

fn joins_wait_for_their_rate_and_hold_nothing_up(tab: &Tab<'_>) {
    let script = at(
        "{ joins: { per_second: 2, burst: 2 } }",
        "const { chat } = await member({ requestTimeoutMs: 1_000 }, undefined, { limits });
            const joins = ['a', 'b', 'c', 'd'].map((room) => chat.join(room));
            const atOnce = sockets[0].frames('join').length;
            chat.members('r').catch(() => {});
            const others = sockets[0].frames('members').length;
            for (let n = 2; n <= 5; n += 1) await sockets[0].joined({}, {}, n);
            const rooms = (await Promise.all(joins)).map(({ room }) => room);
            chat.close();
            return { atOnce, others, rooms };",
    );
    let expected = json!({"atOnce": 2, "others": 1, "rooms": ["a", "b", "c", "d"]});
    assert_eq!(run(tab, &script), expected);
}

fn join_that_is_not_wanted_any_more_is_not_sent(tab: &Tab<'_>) {
    let script = at(
        "{ joins: { per_second: 2, burst: 1 } }",
        "const { chat } = await member({}, undefined, { limits });
            const first = codeOf(chat.join('a'));
            await chat.leave('a');
            const second = chat.join('a');
            await sockets[0].joined({}, {}, 2);
            await second;
            await new Promise((resolve) => setTimeout(resolve, 600));
            chat.close();
            const count = (type) => sockets[0].frames(type).length;
            return { first: await first, joins: count('join'), leaves: count('leave') };",
    );
    assert_eq!(run(tab, &script), json!({"first": "not_in_room", "joins": 2, "leaves": 0}));
}

fn bytes_wait_for_their_rate(tab: &Tab<'_>) {
    let script = at(
        "{ bytes: { per_second: 200_000, burst: 20_000 } }",
        "const { chat } = await member({}, undefined, { limits });
            const begin = Date.now();
            const sent = Array.from({ length: 4 }, () => chat.send('r', 'x'.repeat(15_000)));
            for (let n = 1; n <= 4; n += 1) await sockets[0].ok(n);
            await Promise.all(sent);
            const took = Date.now() - begin;
            chat.close();
            return took >= 200;",
    );
    assert_eq!(run(tab, &script), true);
}

fn waiting_for_its_turn_makes_no_message_late(tab: &Tab<'_>) {
    let script = at(
        "{ frames: { per_second: 20, burst: 2 } }",
        "const { chat } = await member({ sendTimeoutMs: 500 }, undefined, { limits });
            const sent = Array.from({ length: 20 }, (_, n) => chat.send('r', `m${n}`));
            for (let n = 1; n <= 20; n += 1) await sockets[0].ok(n);
            const codes = new Set(await Promise.all(sent.map(codeOf)));
            chat.close();
            return { codes: [...codes], texts: sockets[0].frames('send').map(({ message }) => message) };",
    );
    let texts: Vec<String> = (0..20).map(|n| format!("m{n}")).collect();
    assert_eq!(run(tab, &script), json!({"codes": ["none"], "texts": texts}));
}

/// As many as the server says, and 64 KiB, but one at least.
fn messages_unanswered_are_limited_over_all_rooms(tab: &Tab<'_>) {
    let script = at(
        "{ in_flight: 6 }",
        "const counts = [];
            for (const size of [1, 16_000, 32_600, 40_000]) {
                sockets.length = 0;
                const { chat } = await member({}, undefined, { limits });
                for (let n = 0; n < 10; n += 1) {
                    chat.join(`room-${n}`);
                    await sockets[0].joined({}, {}, n + 2);
                }
                for (let n = 0; n < 10; n += 1) chat.send(`room-${n}`, 'x'.repeat(size));
                const count = sockets[0].frames('send').length;
                await sockets[0].ok(1);
                await sockets[0].asked('send', count + 1);
                counts.push(count);
                chat.close();
            }
            return counts;",
    );
    assert_eq!(run(tab, &script), json!([6, 4, 2, 1]));
}

/// A server may read a client more slowly than its `welcome` said, if others share its rate.
fn requests_unanswered_are_limited(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const { chat } = await member();
            for (let n = 0; n < 200; n += 1) chat.members('r');
            const count = sockets[0].frames('members').length;
            const { id } = await sockets[0].asked('members');
            sockets[0].say({ type: 'error', id, code: 'not_in_room', message: 'No.' });
            await sockets[0].asked('members', 129);
            chat.close();
            return count;",
    );
    assert_eq!(result, 128);
}

fn requests_that_wait_are_limited(tab: &Tab<'_>) {
    let script = at(
        "{ frames: { per_second: 1, burst: 2 } }",
        "const { chat } = await member({}, undefined, { limits });
            const asked = Array.from({ length: 1_001 }, () => codeOf(chat.members('r')));
            const last = await asked.at(-1);
            chat.close();
            const others = new Set(await Promise.all(asked.slice(1, -1)));
            return { last, others: [...others] };",
    );
    assert_eq!(run(tab, &script), json!({"last": "queue_full", "others": ["offline"]}));
}

/// On a real server with the limits that it has if nothing is set.
#[test]
fn bulk_arrives_once_and_in_order() {
    let server = Server::start();
    let browser = Browser::start();
    let tab = browser.open(&server.url("/"));
    let script = "const { ChatClient } = await import('/web/chat-client.js');
        const url = `ws://${location.host}/ws`;
        const heard = {};
        const connect = async () => {
            const chat = new ChatClient(url);
            await chat.connect();
            return chat;
        };
        const [reader, writer] = [await connect(), await connect()];
        let delayed = 0;
        writer.on('delayed', () => (delayed += 1));
        reader.on('message', ({ room, message }) => (heard[room] ??= []).push(message));
        const rooms = Array.from({ length: 100 }, (_, n) => `room-${n}`);
        for (const chat of [reader, writer]) {
            await Promise.all(rooms.map((room) => chat.join(room)));
        }
        const texts = Array.from({ length: 6 }, (_, n) => `m${n}`);
        const last = Promise.all(rooms.map((room) => new Promise((resolve) => {
            reader.on('message', (message) => {
                if (message.room === room && message.message === texts.at(-1)) resolve();
            });
        })));
        await Promise.all(texts.flatMap((text) => rooms.map((room) => writer.send(room, text))));
        await last;
        reader.close();
        writer.close();
        const isWhole = rooms.every((room) => heard[room].join() === texts.join());
        return { delayed, isWhole };";
    assert_eq!(tab.run_async(script, &[]), json!({"delayed": 0, "isWhole": true}));
    browser.assert_no_errors(&[]);
}
