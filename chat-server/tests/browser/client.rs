//! The module `chat-client.js` on its connections: loss, return and errors.

use chat_core::CloseReason;
use serde_json::json;

use crate::fake::{cases, run, run_cases};
use crate::webdriver::Tab;

#[test]
fn connections_of_the_module() {
    let cases = cases![
        comes_back_after_the_codes_that_say_so,
        obeys_a_goodbye_and_asks_into_silence,
        pauses_ever_longer_and_by_chance,
        tells_errors_to_who_asked,
        drops_a_resume_that_no_longer_counts,
        ends_where_no_connection_can_be_made,
    ];
    run_cases(&cases, &[]);
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

fn pauses_ever_longer_and_by_chance(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const chance = [0.5, 0.5, 0.5, 0.25];
            const random = Math.random;
            const chat = client({ backoffBaseMs: 10, backoffCapMs: 40 });
            const pauses = [];
            chat.on('state', ({ retryInMs }) => retryInMs !== undefined && pauses.push(retryInMs));
            chat.connect();
            try {
                Math.random = () => chance[pauses.length];
                for (let n = 0; n < 4; n++) {
                    await soon(() => sockets[n]);
                    sockets[n].end(1006);
                }
            } finally {
                Math.random = random;
            }
            chat.close();
            return pauses;",
    );
    assert_eq!(result, json!([5, 10, 20, 10]));
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
            const outside = await codeOf(chat.send('r', ''));
            const direct = chat.direct('u2', 'hi');
            chat.close();
            return [offline, refused, rooms.length, timeout, outside, await codeOf(direct)];",
    );
    let expected = json!(["offline", "forbidden", 0, "timeout", "not_in_room", "disconnected"]);
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

fn ends_where_no_connection_can_be_made(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const chats = [client({ WebSocket: {} }), new ChatClient('http://[')];
            const reasons = await Promise.all(chats.map((chat) => chat.connect().catch(({ message }) => message)));
            return [chats.map(({ state }) => state), reasons[0], reasons[1].length > 0];",
    );
    let reason = "WebSocket is not a constructor";
    assert_eq!(result, json!([["closed", "closed"], reason, true]));
}
