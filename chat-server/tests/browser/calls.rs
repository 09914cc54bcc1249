//! Calls of the module `chat-client.js` from inside its handlers, and after `close()`.

use serde_json::json;

use crate::fake::{cases, run, run_cases};
use crate::webdriver::Tab;

#[test]
fn calls_of_the_module() {
    let cases = cases![
        rename_in_a_state_handler_joins_all_rooms,
        calls_in_a_state_handler_are_carried_out,
        calls_in_handlers_of_frames_are_carried_out,
        rooms_change_in_handlers,
        messages_after_a_close_in_a_handler_are_sent_again,
        events_reach_all_handlers_in_one_order,
        handler_that_throws_disturbs_nothing,
        closed_client_answers_at_once,
        closed_client_connects_again,
        clock_that_is_set_moves_no_deadline,
    ];
    run_cases(&cases, &["a handler's own"]);
}

fn rename_in_a_state_handler_joins_all_rooms(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const chat = client();
            let renamed;
            chat.on('state', ({ state }) => {
                if (state === 'online') renamed ??= chat.rename('Late');
            });
            const joined = chat.join('r');
            const connected = chat.connect();
            await sockets[0].welcome();
            await sockets[1].welcome();
            await sockets[1].joined({ epoch: 'abcdefgh', offset: 5 });
            await Promise.all([connected, joined, renamed]);
            const names = sockets.map((socket) => socket.frames('hello')[0].name);
            chat.close();
            return { names, rooms: chat.rooms };",
    );
    assert_eq!(result, json!({"names": ["Ann", "Late"], "rooms": ["r"]}));
}

/// Each call in each state.
fn calls_in_a_state_handler_are_carried_out(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const outcomes = {};
        const calls = {
            join: (chat) => chat.join('s'),
            send: (chat) => chat.send('r', 'hi'),
            leave: (chat) => chat.leave('r'),
            rename: (chat) => chat.rename('Bob'),
            connect: (chat) => chat.connect(),
            close: (chat) => chat.close(),
            check: (chat) => chat.check(),
        };
        for (const state of ['connecting', 'online', 'waiting', 'closed']) {
            for (const [name, call] of Object.entries(calls)) {
                sockets.length = 0;
                const chat = client({ backoffBaseMs: 1, token: async () => 't' });
                let isDone = false;
                let outcome;
                chat.on('state', (change) => {
                    if (change.state !== state || isDone) return;
                    isDone = true;
                    outcome = codeOf(Promise.resolve(call(chat)));
                });
                chat.join('r');
                chat.connect();
                const living = () => sockets.find(({ readyState }) => readyState < 2);
                const serve = async () => {
                    for (let n = 0; n < 50 && chat.state !== 'closed'; n += 1) {
                        await new Promise((resolve) => setTimeout(resolve, 1));
                        const socket = living();
                        if (!socket) continue;
                        if (socket.readyState === 0) await socket.welcome();
                        for (const frame of socket.sent.splice(0)) {
                            const { id, type, room } = frame;
                            if (type === 'hello') socket.say({ type: 'welcome', id, user, limits: {} });
                            if (type === 'join') socket.say({ type: 'joined', id, room, members: [], messages: [], count: 0 });
                            if (type === 'send') socket.say({ type: 'ok', id });
                            if (type === 'leave') socket.say({ type: 'left', id, room });
                            if (type === 'ping') socket.say({ type: 'pong', id });
                        }
                        if (n === 12) socket.end(state === 'closed' ? 4002 : 1006);
                    }
                };
                await serve();
                const isJoined = chat.rooms.join();
                outcomes[`${state} ${name}`] = [await outcome, chat.state, isJoined].join(' ');
                chat.close();
            }
        }
        return outcomes;",
    );
    let expected = json!({
        "connecting join": "none online r,s",
        "connecting send": "none online r",
        "connecting leave": "none online ",
        "connecting rename": "none online r",
        "connecting connect": "none online r",
        "connecting close": "none closed ",
        "connecting check": "none online r",
        "online join": "none online r,s",
        "online send": "none online r",
        "online leave": "none online ",
        "online rename": "none online r",
        "online connect": "none online r",
        "online close": "none closed ",
        "online check": "none online r",
        "waiting join": "none online r,s",
        "waiting send": "none online r",
        "waiting leave": "none online ",
        "waiting rename": "none online r",
        "waiting connect": "none online r",
        "waiting close": "none closed r",
        "waiting check": "none online r",
        "closed join": "closed closed r",
        "closed send": "closed closed r",
        "closed leave": "none closed ",
        "closed rename": "closed closed r",
        "closed connect": "none online r",
        "closed close": "none closed r",
        "closed check": "none closed r",
    });
    assert_eq!(result, expected);
}

/// Each call in the handler of each other event.
fn calls_in_handlers_of_frames_are_carried_out(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const frames = {
                joined: { type: 'joined', recovered: true, members: [], messages: [], count: 0 },
                message: message(6),
                gap: { type: 'gap', room: 'r', epoch: 'abcdefgh', offset: 9 },
                presence: { type: 'presence', room: 'r', event: 'joined', user },
                typing: { type: 'typing', room: 'r', user, typing: true },
                direct: { type: 'direct', user, message: '', at: 0 },
                undelivered: { type: 'undelivered', session: 's', to: 'u' },
                goodbye: { type: 'goodbye', reason: 'r', reconnect: true, after_ms: 1 },
                error: { type: 'error', code: 'c', message: '' },
                left: { type: 'left', room: 'other', reason: 'kicked' },
            };
            const outcome = async (event, call) => {
                sockets.length = 0;
                const { chat } = await member({}, undefined, { session: 's' });
                const [first] = sockets;
                const other = chat.join('other');
                await first.joined({}, {}, 2);
                await other;
                let result;
                chat.on(event, () => (result ??= codeOf(Promise.resolve(calls[call](chat)))));
                if (event === 'joined') {
                    chat.join('third');
                    await first.joined({}, {}, 3);
                } else {
                    first.say(frames[event]);
                }
                const serve = () => {
                    const socket = sockets.at(-1);
                    if (socket.readyState === 0) socket.welcome();
                    for (const { id, type, room } of socket.sent.splice(0)) {
                        if (type === 'join') socket.say({ ...frames.joined, id, room });
                        if (type === 'send') socket.say({ type: 'ok', id });
                        if (type === 'leave') socket.say({ type: 'left', id, room });
                    }
                };
                const server = setInterval(serve, 1);
                const code = await result;
                const isJoined = call !== 'join' || chat.rooms.includes('s');
                const isLeft = call !== 'leave' || !chat.rooms.includes('r');
                const isWell = code === 'none' && isJoined && isLeft && chat.state === (call === 'close' ? 'closed' : 'online');
                clearInterval(server);
                chat.close();
                return isWell ? [] : [`${call} in ${event}: ${code} ${chat.rooms}`];
            };
            const calls = {
                join: (chat) => chat.join('s'),
                leave: (chat) => chat.leave('r'),
                send: (chat) => chat.send('r', 'hi'),
                rename: (chat) => chat.rename('Bob'),
                close: (chat) => chat.close(),
            };
            const failures = [];
            for (const event of Object.keys(frames)) {
                for (const call of Object.keys(calls)) failures.push(...(await outcome(event, call)));
            }
            return failures;",
    );
    assert_eq!(result, json!([]));
}

/// A moderator's kick, and a message whose handler leaves.
fn rooms_change_in_handlers(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const { chat } = await member();
            chat.on('message', ({ message }) => {
                if (message === 'leave') chat.leave('r');
                if (message === 'join') chat.join('s');
            });
            chat.on('left', ({ room }) => chat.join(room));
            sockets[0].say(message(6, { message: 'join' }));
            await sockets[0].joined({}, {}, 2);
            sockets[0].say({ type: 'left', room: 's', reason: 'kicked' });
            await sockets[0].joined({}, {}, 3);
            sockets[0].say(message(7, { message: 'leave' }));
            await sockets[0].asked('leave');
            const { rooms } = chat;
            chat.close();
            return rooms;",
    );
    assert_eq!(result, json!(["s"]));
}

/// Of the messages that came with a join, those after the one at which a handler ended the
/// connection.
fn messages_after_a_close_in_a_handler_are_sent_again(tab: &Tab<'_>) {
    for end in ["close(); chat.connect()", "rename('Bob')"] {
        let script = format!(
            "const {{ chat, heard }} = await member();
            chat.on('message', ({{ offset }}) => {{
                if (offset === 7 && sockets.length === 2) chat.{end};
            }});
            sockets[0].end(1006);
            await soon(() => sockets[1]);
            await sockets[1].welcome();
            await sockets[1].joined({{ epoch: 'abcdefgh', offset: 9 }}, {{
                recovered: true,
                messages: [6, 7, 8, 9].map((offset) => message(offset)),
            }});
            await soon(() => sockets[2]);
            await sockets[2].welcome();
            const {{ since }} = await sockets[2].asked('join');
            await sockets[2].joined({{ epoch: 'abcdefgh', offset: 9 }}, {{
                recovered: true,
                messages: [8, 9].map((offset) => message(offset)),
            }});
            chat.close();
            return {{ since, heard }};"
        );
        let heard = json!(["joined", "rejoined", 6, 7, "rejoined", 8, 9]);
        let since = json!({"epoch": "abcdefgh", "offset": 7});
        assert_eq!(run(tab, &script), json!({"since": since, "heard": heard}), "{end}");
    }
}

fn events_reach_all_handlers_in_one_order(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const chat = client();
            chat.on('state', ({ state }) => state === 'online' && chat.close());
            const states = [];
            chat.on('state', ({ state }) => states.push(state));
            chat.connect();
            await sockets[0].welcome();
            return states;",
    );
    assert_eq!(result, json!(["connecting", "online", "closed"]));
}

fn handler_that_throws_disturbs_nothing(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const chat = client();
            for (const event of ['state', 'joined', 'message', 'gap']) {
                chat.on(event, () => { throw new Error(\"a handler's own\"); });
            }
            const heard = [];
            chat.on('message', ({ offset }) => heard.push(offset));
            const joined = chat.join('r');
            chat.connect();
            await sockets[0].welcome();
            await sockets[0].joined({ epoch: 'abcdefgh', offset: 5 }, { messages: [message(4), message(5)] });
            await joined;
            sockets[0].say(message(6));
            const { state } = chat;
            chat.close();
            return { heard, state };",
    );
    assert_eq!(result, json!({"heard": [4, 5, 6], "state": "online"}));
}

fn closed_client_answers_at_once(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const { chat } = await member();
            const waiting = [chat.join('s'), chat.send('r', 'a'), chat.connect()];
            const states = [];
            chat.on('state', ({ state }) => {
                states.push(state);
                chat.close();
            });
            chat.close();
            chat.close();
            const begin = performance.now();
            const codes = await Promise.all([
                ...waiting,
                chat.join('r'),
                chat.join('t'),
                chat.send('r', 'b'),
                chat.send('t', 'b'),
                chat.direct('u', 'b'),
                chat.members('r'),
                chat.history('r'),
                chat.rename('Bob'),
                chat.leave('r'),
            ].map(codeOf));
            chat.typing('r', true);
            chat.check();
            const isQuick = performance.now() - begin < 100;
            return { codes, isQuick, states, sockets: sockets.length, rooms: chat.rooms };",
    );
    let closed = "closed";
    let unanswered = "outcome_unknown";
    let codes = json!([
        closed, unanswered, "none", closed, closed, closed, closed, closed, closed, closed, closed,
        "none"
    ]);
    let states = [closed];
    let expected =
        json!({"codes": codes, "isQuick": true, "states": states, "sockets": 1, "rooms": []});
    assert_eq!(result, expected);
}

fn closed_client_connects_again(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const { chat, heard } = await member();
            const pending = codeOf(chat.join('s'));
            chat.close();
            const connected = chat.connect();
            await sockets[1].welcome();
            await connected;
            const { since } = await sockets[1].asked('join');
            await sockets[1].joined({ epoch: 'abcdefgh', offset: 5 }, { recovered: true });
            const sent = chat.send('r', 'hi');
            await sockets[1].ok(1);
            await sent;
            const joins = sockets[1].frames('join').length;
            chat.close();
            return { since, heard, joins, pending: await pending };",
    );
    let since = json!({"epoch": "abcdefgh", "offset": 5});
    let heard = ["joined", "rejoined"];
    assert_eq!(result, json!({"since": since, "heard": heard, "joins": 1, "pending": "closed"}));
}

fn clock_that_is_set_moves_no_deadline(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const wall = Date.now;
            try {
                // It waits for a connection, for as long as it may.
                const { chat } = await member({ sendTimeoutMs: 5_000 });
                sockets[0].end(1006);
                const sent = chat.send('r', 'hi');
                Date.now = () => wall() + 3_600_000;
                await soon(() => sockets[1]);
                await sockets[1].welcome();
                await sockets[1].joined({ epoch: 'abcdefgh', offset: 5 }, { recovered: true });
                await sockets[1].ok(1);
                const code = await codeOf(sent);
                chat.close();

                sockets.length = 0;
                const silent = await member({ pingAfterMs: 100 });
                Date.now = () => wall() - 3_600_000;
                await sockets[0].asked('ping');
                silent.chat.close();
                return code;
            } finally {
                Date.now = wall;
            }",
    );
    assert_eq!(result, "none");
}
