//! How the module `chat-client.js` gets messages to the server: each once, and in order.

use serde_json::json;

use crate::fake::run;
use crate::server::Server;
use crate::webdriver::{Browser, Tab};

#[test]
fn messages_on_their_way() {
    let server = Server::start();
    let browser = Browser::start();
    let tab = browser.open(&server.url("/"));
    go_one_after_the_other(&tab);
    go_again_after_passing_errors(&tab);
    go_again_over_a_new_connection(&tab);
    go_no_more_when_it_is_too_late(&tab);
    are_not_sent_as_another_user(&tab);
    are_refused_when_too_many_wait_or_one_is_too_long(&tab);
    browser.assert_no_errors(&[]);
}

/// The keys of all that was sent over a connection.
const KEYS: &str = "const keysOn = (socket) => socket.frames('send').map(({ key }) => key);";

fn go_one_after_the_other(tab: &Tab<'_>) {
    let result = run(
        tab,
        &format!(
            "{KEYS}
            const {{ chat }} = await member();
            chat.join('s');
            await sockets[0].joined({{ epoch: 'abcdefgh', offset: 0 }}, {{}}, 2);
            const sent = ['k1', 'k2', 'k3'].map((key) => chat.send('r', key, {{ key }}));
            chat.send('s', '', {{ key: 'other room' }});
            const first = keysOn(sockets[0]);
            // One's own message is as good as the answer; that of another user is not.
            sockets[0].say(message(6, {{ key: 'k1' }}));
            sockets[0].say(message(7, {{ key: 'k1', user: chat.user }}));
            await sockets[0].asked('send', 3);
            const second = keysOn(sockets[0]);
            await sockets[0].ok(3, {{ offset: 8 }});
            await sockets[0].ok(4, {{ offset: 9 }});
            const offsets = (await Promise.all(sent)).map(({{ offset, epoch }}) => [epoch, offset]);
            chat.close();
            return {{ first, second, offsets }};"
        ),
    );
    assert_eq!(result["first"], json!(["k1", "other room"]));
    assert_eq!(result["second"], json!(["k1", "other room", "k2"]));
    let offsets = json!([["abcdefgh", 7], ["abcdefgh", 8], ["abcdefgh", 9]]);
    assert_eq!(result["offsets"], offsets);
}

fn go_again_after_passing_errors(tab: &Tab<'_>) {
    let result = run(
        tab,
        &format!(
            "{KEYS}
            const {{ chat }} = await member({{ requestTimeoutMs: 100 }});
            const sent = ['k1', 'k2', 'k3'].map((key) => chat.send('r', key, {{ key }}));
            const begin = Date.now();
            await sockets[0].refuse('send', 1, 'broker_unavailable', {{ retry_after_ms: 20 }});
            await sockets[0].refuse('send', 2, 'rate_limited', {{ retry_after_ms: 20 }});
            await sockets[0].refuse('send', 3, 'internal', {{ retry_after_ms: 20 }});
            await sockets[0].asked('send', 4);
            const pause = Date.now() - begin;
            // The fourth is not answered.
            await sockets[0].ok(5, {{ offset: 6 }});
            await sockets[0].refuse('send', 6, 'forbidden');
            await sockets[0].ok(7, {{ offset: 7 }});
            const outcomes = await Promise.all(sent.map(codeOf));
            chat.close();
            return {{ keys: keysOn(sockets[0]), outcomes, hasPaused: pause >= 59 }};"
        ),
    );
    assert_eq!(result["keys"], json!(["k1", "k1", "k1", "k1", "k1", "k2", "k3"]));
    assert_eq!(result["outcomes"], json!(["none", "forbidden", "none"]));
    assert_eq!(result["hasPaused"], true);
}

fn go_again_over_a_new_connection(tab: &Tab<'_>) {
    let result = run(
        tab,
        &format!(
            "{KEYS}
            const {{ chat, heard }} = await member();
            const sent = ['k1', 'k2', 'k3'].map((key) => chat.send('r', key, {{ key }}));
            await sockets[0].ok(1, {{ offset: 6 }});
            await sockets[0].asked('send', 2);
            sockets[0].end(1006);
            await soon(() => sockets[1]);
            await sockets[1].welcome();
            const {{ resume }} = await sockets[1].asked('hello');
            const early = keysOn(sockets[1]);
            await sockets[1].joined({{ epoch: 'abcdefgh', offset: 7 }}, {{
                recovered: true,
                messages: [message(6, {{ key: 'k1', user: chat.user }}), message(7, {{ key: 'k2', user: chat.user }})],
            }});
            await sockets[1].asked('send');
            sockets[1].end(1006);
            sent.push(chat.send('r', 'k4', {{ key: 'k4' }}));
            await soon(() => sockets[2]);
            await sockets[2].welcome();
            await sockets[2].joined({{ epoch: 'abcdefgh', offset: 7 }}, {{ recovered: true }});
            await sockets[2].ok(1, {{ offset: 8 }});
            await sockets[2].ok(2, {{ offset: 9 }});
            const offsets = (await Promise.all(sent)).map(({{ offset }}) => offset);
            chat.close();
            return {{ resume, early, keys: sockets.map(keysOn), offsets }};"
        ),
    );
    assert_eq!(result["resume"], "secret");
    assert_eq!(result["early"], json!([]), "not before the room is joined");
    assert_eq!(result["keys"], json!([["k1", "k2"], ["k3"], ["k3", "k4"]]), "the second was taken");
    assert_eq!(result["offsets"], json!([6, 7, 8, 9]));
}

fn go_no_more_when_it_is_too_late(tab: &Tab<'_>) {
    let result = run(
        tab,
        &format!(
            "{KEYS}
            const {{ chat }} = await member({{ sendTimeoutMs: 200 }});
            const first = chat.send('r', '', {{ key: 'k1' }});
            await sockets[0].refuse('send', 1, 'broker_unavailable', {{ retry_after_ms: 1000 }});
            await new Promise((resolve) => setTimeout(resolve, 100));
            const second = chat.send('r', '', {{ key: 'k2' }}).catch((error) => error.code);
            const error = await first.catch((error) => error);
            const outcome = await second;
            await new Promise((resolve) => setTimeout(resolve, 0));
            chat.close();
            return {{ code: error.code, key: error.key, outcome, keys: keysOn(sockets[0]) }};"
        ),
    );
    assert_eq!(result["code"], "outcome_unknown");
    assert_eq!(result["key"], "k1");
    assert_eq!(result["outcome"], "outcome_unknown");
    assert_eq!(result["keys"], json!(["k1", "k2"]));
}

fn are_not_sent_as_another_user(tab: &Tab<'_>) {
    let result = run(
        tab,
        &format!(
            "{KEYS}
            const {{ chat }} = await member();
            const first = chat.send('r', '', {{ key: 'k1' }});
            const second = chat.send('r', '', {{ key: 'k2' }});
            await sockets[0].asked('send');
            sockets[0].end(1006);
            await soon(() => sockets[1]);
            await sockets[1].welcome('u3');
            await sockets[1].joined({{ epoch: 'abcdefgh', offset: 5 }}, {{ recovered: true }});
            await sockets[1].ok(1);
            const outcomes = [await codeOf(first), await codeOf(second)];
            chat.close();
            return {{ outcomes, keys: sockets.map(keysOn) }};"
        ),
    );
    assert_eq!(result["outcomes"], json!(["outcome_unknown", "none"]));
    assert_eq!(result["keys"], json!([["k1"], ["k2"]]));
}

fn are_refused_when_too_many_wait_or_one_is_too_long(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const { chat } = await member({ queueLimit: 2 });
            const sent = [chat.send('r', 'one'), chat.send('r', 'two')];
            const refused = [await codeOf(chat.send('r', 'three')), await codeOf(chat.send('r', 'x'.repeat(11)))];
            await sockets[0].ok(1);
            await sent[0];
            sent.push(chat.send('r', 'three'));
            chat.leave('r').catch(() => {});
            const outcomes = await Promise.all(sent.map(codeOf));
            chat.close();
            return [...refused, ...outcomes];",
    );
    let expected = ["queue_full", "message_too_long", "none", "outcome_unknown", "not_in_room"];
    assert_eq!(result, json!(expected));

    let result = run(
        tab,
        "const { chat } = await member({ queueBytes: 300 });
            let sent = 0;
            for (; !chat.isFull; sent += 1) chat.send('r', '0123456789');
            const refused = await codeOf(chat.send('r', ''));
            const { queued } = chat;
            chat.leave('r').catch(() => {});
            const { isFull, queued: rest } = chat;
            chat.close();
            return { sent, refused, queued, isFull, rest };",
    );
    let expected =
        json!({"sent": 4, "refused": "queue_full", "queued": 4, "isFull": false, "rest": 0});
    assert_eq!(result, expected);
}
