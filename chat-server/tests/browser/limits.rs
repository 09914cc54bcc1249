//! What is too large is the error of its call, and costs no connection: the module
//! `chat-client.js`, and the page.

use serde_json::json;

use crate::fake::{cases, run, run_cases};
use crate::server::Server;
use crate::webdriver::{Browser, Tab};

#[test]
fn limits_of_the_module() {
    let cases = cases![
        what_is_too_large_is_not_sent,
        longest_texts_are_sent,
        limits_of_the_welcome_hold_for_what_waits,
        close_1009_fails_the_largest_message_and_no_other,
        token_that_is_too_large_is_the_end,
        undelivered_message_is_reported_to_its_own_connection,
    ];
    run_cases(&cases, &[]);
}

/// The limits of a server that is not set otherwise.
const LIMITS: &str =
    "const limits = { message_bytes: 32_768, frame_bytes: 233_472, in_flight: 64 };
    const large = 'x'.repeat(70_000);
    const huge = 'x'.repeat(300_000);";

fn what_is_too_large_is_not_sent(tab: &Tab<'_>) {
    let result = run(
        tab,
        &format!(
            "{LIMITS}
            const {{ chat }} = await member({{}}, undefined, {{ limits }});
            const loop = {{}};
            loop.loop = loop;
            const before = sockets[0].sent.length;
            const codes = await Promise.all([
                chat.send('r', large),
                chat.send('r', '\\u0444'.repeat(16_385)),
                chat.send('r', '', {{ data: large }}),
                chat.send('r', '', {{ data: loop }}),
                chat.send('r', '\\ud83d'),
                chat.send('r', '', {{ key: huge }}),
                chat.direct('u2', large),
                chat.direct('u2', '', {{ data: large }}),
                chat.direct(huge, ''),
                chat.join(large),
                chat.join(''),
                chat.join('a\\nb'),
                chat.members(large),
                chat.history(large),
                chat.rename(''),
                chat.rename('n'.repeat(129)),
                chat.rename('a\\nb'),
            ].map(codeOf));
            const {{ state }} = chat;
            const sent = sockets[0].sent.length - before;
            chat.close();
            return {{ codes, state, sent }};"
        ),
    );
    let [long, large, room] = ["message_too_long", "too_large", "room_name_invalid"];
    let codes = [
        long,
        long,
        long,
        "bad_field",
        "bad_field",
        large,
        long,
        long,
        large,
        room,
        room,
        room,
        room,
        room,
        "bad_field",
        "bad_field",
        "bad_field",
    ];
    assert_eq!(result, json!({"codes": codes, "state": "online", "sent": 0}));
}

fn longest_texts_are_sent(tab: &Tab<'_>) {
    let result = run(
        tab,
        &format!(
            "{LIMITS}
            const {{ chat }} = await member({{}}, undefined, {{ limits }});
            const texts = ['\\n'.repeat(32_768), '\\u001b'.repeat(32_768), '\\u0444'.repeat(16_384)];
            const codes = [];
            for (const [n, text] of texts.entries()) {{
                const sent = chat.send('r', text, {{ data: 'x'.repeat(32_766) }});
                await sockets[0].ok(n + 1);
                codes.push(await codeOf(sent));
            }}
            const isWhole = sockets[0].frames('send').every(({{ message }}, n) => message === texts[n]);
            chat.close();
            return {{ codes, isWhole }};"
        ),
    );
    assert_eq!(result, json!({"codes": ["none", "none", "none"], "isWhole": true}));
}

/// What is queued before the first welcome is checked when it could be sent.
fn limits_of_the_welcome_hold_for_what_waits(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const chat = client();
            chat.connect();
            chat.join('r');
            const sent = ['01234567890', '0123456789'].map((text) => chat.send('r', text));
            await sockets[0].welcome();
            await sockets[0].joined({ epoch: 'abcdefgh', offset: 5 });
            await sockets[0].ok(1);
            const codes = await Promise.all(sent.map(codeOf));
            chat.close();
            return { codes, sent: sockets[0].frames('send').length };",
    );
    assert_eq!(result, json!({"codes": ["message_too_long", "none"], "sent": 1}));
}

/// A proxy may have a limit of its own.
fn close_1009_fails_the_largest_message_and_no_other(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const { chat } = await member();
            chat.join('s');
            await sockets[0].joined({}, {}, 2);
            const largest = chat.send('r', '0123456789', { key: 'k1' });
            const other = chat.send('s', '', { key: 'k2' });
            await sockets[0].asked('send', 2);
            sockets[0].end(1009);
            const { state } = chat;
            await soon(() => sockets[1]);
            await sockets[1].welcome();
            await sockets[1].joined({ epoch: 'abcdefgh', offset: 5 }, { recovered: true });
            await sockets[1].joined({}, {}, 2);
            await sockets[1].ok(1);
            const codes = [await codeOf(largest), await codeOf(other)];
            chat.close();
            return { state, codes, again: sockets[1].frames('send').map(({ key }) => key) };",
    );
    let expected = json!({"state": "waiting", "codes": ["too_large", "none"], "again": ["k2"]});
    assert_eq!(result, expected);
}

fn token_that_is_too_large_is_the_end(tab: &Tab<'_>) {
    let result = run(
        tab,
        &format!(
            "{LIMITS}
            const outcomes = [];
            for (const [n, token] of [huge, large].entries()) {{
                const chat = client({{ token, backoffBaseMs: 1 }});
                const connected = codeOf(chat.connect());
                sockets[n].open();
                if (n === 1) {{
                    await sockets[n].asked('hello');
                    sockets[n].end(1009);
                }}
                outcomes.push([await connected, chat.state, sockets[n].sent.length]);
            }}
            return {{ outcomes, sockets: sockets.length }};"
        ),
    );
    let outcomes = json!([["too_large", "closed", 0], ["too_large", "closed", 1]]);
    assert_eq!(result, json!({"outcomes": outcomes, "sockets": 2}));
}

/// The frame reaches every connection of the user, also before the answer to the message.
fn undelivered_message_is_reported_to_its_own_connection(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const { chat } = await member({}, undefined, { session: 'n-1' });
            const heard = [];
            chat.on('undelivered', ({ to }) => heard.push(to));
            const direct = chat.direct('bob', 'psst');
            const { id } = await sockets[0].asked('direct');
            for (const session of ['n-2', 'n-1']) {
                sockets[0].say({ type: 'undelivered', session, id, to: `bob of ${session}` });
            }
            sockets[0].say({ type: 'ok', id, delivered: 1 });
            const { delivered } = await direct;
            chat.close();
            return { heard, delivered };",
    );
    assert_eq!(result, json!({"heard": ["bob of n-1"], "delivered": 1}));
}

#[test]
fn the_page_and_what_is_too_large() {
    let server = Server::start();
    let browser = Browser::start();
    let tab = browser.open(&server.url("/?user=Ann&room=general"));
    tab.until_shows("log", "You joined the room.");
    let paste = |text: &str| {
        let script = format!("document.querySelector('[data-testid=message]').value = {text}");
        tab.run(&script, &[]);
        tab.click("send");
    };
    paste("'a line of the log\\n'.repeat(1_778)");
    tab.until_shows("log", "a line of the log");
    tab.until_hidden("unsent");
    paste("'x'.repeat(32_769)");
    tab.until_shows("unsent", "Not sent: The message is too long. Send it in parts.");
    paste("'and on it goes'");
    tab.until_shows("log", "and on it goes");
    tab.fill("message", "written since");
    tab.click("edit");
    let text = "document.querySelector('[data-testid=message]').value";
    let texts = ["x".repeat(32_769), "written since".to_owned()];
    assert_eq!(tab.run(&format!("return {text}"), &[]), texts.join("\n"));
    tab.until_hidden("unsent");

    let room = "r".repeat(129);
    let tab = browser.open(&server.url(&format!("/?user=Ann&room={room}")));
    tab.until_shows("start-error", "This is no name for a room");
    browser.assert_no_errors(&[]);
}
