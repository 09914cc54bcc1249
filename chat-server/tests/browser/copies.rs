//! How the module `chat-client.js` keeps its copy of a room whole.

use serde_json::json;

use crate::fake::run;
use crate::server::Server;
use crate::webdriver::{Browser, Tab};

#[test]
fn the_copy_of_a_room() {
    let server = Server::start();
    let browser = Browser::start();
    let tab = browser.open(&server.url("/"));
    comes_back_to_its_place(&tab);
    begins_with_the_first_message(&tab);
    repairs_a_hole(&tab);
    repairs_a_hole_over_errors_and_losses(&tab);
    tells_what_is_gone_for_good(&tab);
    goes_on_after_a_gap(&tab);
    joins_again_without_losing_its_place(&tab);
    has_no_place_in_a_room_without_history(&tab);
    hears_nothing_of_a_room_that_was_left(&tab);
    browser.assert_no_errors(&[]);
}

fn comes_back_to_its_place(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const { chat, heard } = await member();
            for (const offset of [6, 6, 5, 7]) sockets[0].say(message(offset));
            sockets[0].end(1006);
            await soon(() => sockets[1]);
            await sockets[1].welcome();
            const { since } = await sockets[1].asked('join');
            // The answer ends before the room does: the rest follows.
            await sockets[1].joined({ epoch: 'abcdefgh', offset: 9 }, {
                recovered: true,
                messages: [message(8), message(9)],
            });
            for (const offset of [10, 11]) sockets[1].say(message(offset));
            sockets[1].end(1006);
            await soon(() => sockets[2]);
            await sockets[2].welcome();
            const next = await sockets[2].asked('join');
            chat.close();
            return { since, next: next.since, heard };",
    );
    assert_eq!(result["since"], json!({"epoch": "abcdefgh", "offset": 7}));
    assert_eq!(result["next"], json!({"epoch": "abcdefgh", "offset": 11}));
    assert_eq!(result["heard"], json!(["joined", 6, 7, "rejoined", 8, 9, 10, 11]));
}

fn begins_with_the_first_message(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const { chat, heard } = await member({}, { epoch: '', offset: 0 });
            sockets[0].say(message(1, { epoch: 'abcdefgh' }));
            sockets[0].say(message(2));
            // The counter was lost.
            sockets[0].say({ type: 'gap', room: 'r', epoch: 'ijklmnop', offset: 0 });
            sockets[0].say(message(1, { epoch: 'ijklmnop' }));
            sockets[0].end(1006);
            await soon(() => sockets[1]);
            await sockets[1].welcome();
            const { since } = await sockets[1].asked('join');
            chat.close();
            return { since, heard };",
    );
    assert_eq!(result["since"], json!({"epoch": "ijklmnop", "offset": 1}));
    assert_eq!(result["heard"], json!(["joined", 1, 2, "gap 0", 1]));
}

fn repairs_a_hole(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const { chat, heard } = await member();
            for (const offset of [6, 9, 10, 11]) sockets[0].say(message(offset));
            const before = [...heard];
            const { since } = await sockets[0].asked('join', 2);
            sockets[0].say(message(12));
            await sockets[0].joined({ epoch: 'abcdefgh', offset: 10 }, {
                recovered: true,
                messages: [7, 8, 9, 10].map((offset) => message(offset)),
            }, 2);
            for (const offset of [11, 12, 13]) sockets[0].say(message(offset));
            chat.close();
            return { since, before, heard, joins: sockets[0].frames('join').length };",
    );
    assert_eq!(result["before"], json!(["joined", 6]), "what is beyond waits");
    assert_eq!(result["since"], json!({"epoch": "abcdefgh", "offset": 6}));
    let heard = json!(["joined", 6, "rejoined", 7, 8, 9, 10, 11, 12, 13]);
    assert_eq!(result["heard"], heard);
    assert_eq!(result["joins"], 2);
}

fn repairs_a_hole_over_errors_and_losses(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const { chat, heard } = await member();
            sockets[0].say(message(8));
            await sockets[0].refuse('join', 2, 'broker_unavailable', { retry_after_ms: 1 });
            await sockets[0].asked('join', 3);
            sockets[0].say({ type: 'gap', room: 'r', epoch: 'abcdefgh', offset: 9 });
            sockets[0].end(1006);
            await soon(() => sockets[1]);
            await sockets[1].welcome();
            const { since } = await sockets[1].asked('join');
            // Nothing of before the loss is heard after it.
            await sockets[1].joined({ epoch: 'abcdefgh', offset: 7 }, {
                recovered: true,
                messages: [message(6), message(7)],
            });
            sockets[1].say(message(8, { message: 'again' }));
            chat.close();
            return { since, heard };",
    );
    assert_eq!(result["since"], json!({"epoch": "abcdefgh", "offset": 5}));
    assert_eq!(result["heard"], json!(["joined", "rejoined", 6, 7, "again"]));
}

fn tells_what_is_gone_for_good(tab: &Tab<'_>) {
    let after = |position: &str, page: &str| {
        let script = format!(
            "const {{ chat, heard }} = await member();
                sockets[0].end(1006);
                await soon(() => sockets[1]);
                await sockets[1].welcome();
                await sockets[1].joined({position}, {{
                    messages: {page}.map((offset) => message(offset)),
                }});
                sockets[1].say(message(9));
                chat.close();
                return heard;"
        );
        run(tab, &script)
    };
    let cut = after("{ epoch: 'abcdefgh', offset: 8 }", "[7, 8]");
    assert_eq!(cut, json!(["joined", "rejoined", "gap 6", 7, 8, 9]));
    let overlapping = after("{ epoch: 'abcdefgh', offset: 8 }", "[4, 5, 7, 8]");
    assert_eq!(overlapping, json!(["joined", "rejoined", "gap 6", 7, 8, 9]));
    let other = after("{ epoch: 'ijklmnop', offset: 8 }", "[4, 5, 6, 7, 8]");
    assert_eq!(other, json!(["joined", "rejoined", "gap 3", 4, 5, 6, 7, 8, 9]));
    let empty = after("{ epoch: 'ijklmnop', offset: 8 }", "[]");
    assert_eq!(empty, json!(["joined", "rejoined", "gap 8", 9]));

    let beyond_repair = run(
        tab,
        "const { chat, heard } = await member();
            sockets[0].say(message(8));
            await sockets[0].joined({ epoch: 'abcdefgh', offset: 8 }, { messages: [message(8)] }, 2);
            sockets[0].say(message(9));
            chat.close();
            return heard;",
    );
    assert_eq!(beyond_repair, json!(["joined", "rejoined", "gap 7", 8, 9]));
}

fn goes_on_after_a_gap(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const { chat, heard } = await member();
            const gap = (epoch, offset) => sockets[0].say({ type: 'gap', room: 'r', epoch, offset });
            gap('abcdefgh', 8);
            sockets[0].say(message(9));
            gap('ijklmnop', 2);
            sockets[0].say(message(3));
            chat.close();
            return { heard, joins: sockets[0].frames('join').length };",
    );
    assert_eq!(result, json!({"heard": ["joined", "gap 8", 9, "gap 2", 3], "joins": 1}));
}

fn joins_again_without_losing_its_place(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const { chat, heard } = await member();
            const again = chat.join('r', { history: 2 });
            const { since } = await sockets[0].asked('join', 2);
            sockets[0].say(message(6));
            await sockets[0].joined({ epoch: 'abcdefgh', offset: 8 }, { messages: [message(8)] }, 2);
            const { messages } = await again;
            for (const offset of [7, 8]) sockets[0].say(message(offset));
            chat.close();
            return { heard, since: since ?? null, messages: messages.length };",
    );
    assert_eq!(result, json!({"heard": ["joined", 6, 7, 8], "since": null, "messages": 1}));
}

fn has_no_place_in_a_room_without_history(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const { chat, heard } = await member({}, {});
            const say = (socket, text) => socket.say(message(undefined, { message: text }));
            say(sockets[0], 'one');
            sockets[0].say({ type: 'gap', room: 'r' });
            say(sockets[0], 'two');
            sockets[0].end(1006);
            await soon(() => sockets[1]);
            await sockets[1].welcome();
            const { since } = await sockets[1].asked('join');
            await sockets[1].joined({});
            say(sockets[1], 'three');
            chat.close();
            return { since: since ?? null, heard };",
    );
    assert_eq!(result["since"], json!(null));
    let heard = json!(["joined", "one", "gap", "two", "rejoined", "gap", "three"]);
    assert_eq!(result["heard"], heard);
}

fn hears_nothing_of_a_room_that_was_left(tab: &Tab<'_>) {
    let result = run(
        tab,
        "const { chat, heard } = await member();
            chat.leave('r').catch(() => {});
            chat.join('r');
            for (const offset of [6, 7]) sockets[0].say(message(offset));
            await sockets[0].joined({ epoch: 'abcdefgh', offset: 8 }, {}, 2);
            sockets[0].say(message(9));
            chat.close();
            return heard;",
    );
    assert_eq!(result, json!(["joined", "joined", 9]));
}
