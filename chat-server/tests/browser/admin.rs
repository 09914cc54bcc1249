//! The page for operators.

use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use chat_broker::testing::{RedisServer, free_port};
use chat_server::{ApiKey, Secret};
use tokio::runtime::Runtime;

use crate::accessibility;
use crate::layout::assert_fits;
use crate::server::Server;
use crate::tokens::KEY;
use crate::webdriver::{Browser, Tab, key};

const READER: &str = "ck_reader_0123456789abcdef";

/// A key that may read the figures of servers, and no rooms.
const WATCHER: &str = "ck_watcher_0123456789abcdef";

/// A server with the key of all scopes, one that may only read, and one for figures.
struct Chat {
    server: Server,
    file: PathBuf,
}

impl Chat {
    fn start() -> Self {
        static FILES: AtomicU32 = AtomicU32::new(0);
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let file = std::env::temp_dir().join(format!("chat-admin-{}-{number}", process::id()));
        let key = |name, secret, scope| {
            let hash = ApiKey::new(name, &Secret::new(secret)).unwrap().hash();
            format!("[[api_keys]]\nname = \"{name}\"\nhash = \"{hash}\"\nscopes = [\"{scope}\"]\n")
        };
        let keys = key("reader", READER, "read") + &key("watcher", WATCHER, "admin");
        std::fs::write(&file, keys).unwrap();
        let config = file.to_str().unwrap();
        let arguments = ["--metrics-addr", "127.0.0.1:0", "--api-key", KEY, "--config", config];
        Self { server: Server::start_with(&arguments), file }
    }

    /// Ann's page, in the room "general".
    fn member<'a>(&self, browser: &'a Browser) -> Tab<'a> {
        let ann = browser.open(&self.server.url("/?user=Ann&room=general"));
        ann.until_shows("log", "You joined the room.");
        ann
    }

    fn log_in(&self, tab: &Tab<'_>, key: &str) {
        tab.go(&self.server.operators_url("/admin/"));
        tab.fill("key", key);
        tab.click("login");
        tab.until_shows("key-name", "");
    }
}

impl Drop for Chat {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

/// The id of the only user in the list of a room.
fn listed_user(tab: &Tab<'_>) -> String {
    let id = "document.querySelector('[data-testid=members] td .muted')?.innerText";
    tab.until(id, &[]).as_str().unwrap().to_owned()
}

#[test]
fn operator_reads_a_room_and_removes_a_user() {
    let chat = Chat::start();
    let browser = Browser::start();
    let ann = chat.member(&browser);
    let tab = browser.open(&chat.server.operators_url("/admin"));
    tab.fill("key", "no key");
    tab.click("login");
    tab.until_shows("login-error", "A valid API key is required");
    chat.log_in(&tab, KEY);
    tab.until_shows("scopes", "moderate");
    tab.until_shows("state", "ready for clients");
    tab.until_shows("servers", "0.1.0");
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    tab.until_shows("servers", "Host");
    tab.until_shows("servers", host.trim());
    tab.until_shows("servers", "this server");
    tab.until_shows("this-server", host.trim());
    tab.until_shows("connections", "1");

    tab.click("to-rooms");
    tab.until_shows("rooms", "general");
    tab.fill("prefix", "no-such-room");
    tab.click("prefix-submit");
    tab.until_shows("rooms", "No room whose name begins so has users.");
    tab.fill("room", "general");
    tab.click("room-submit");
    tab.until_shows("members", "Ann");
    ann.fill("message", "Is anybody there?");
    ann.click("send");
    let user = listed_user(&tab);
    tab.until_shows("log", &format!("{user} (Ann): Is anybody there?"));
    tab.fill("message", "Yes, the operator.");
    tab.click("message-submit");
    ann.until_shows("log", "Yes, the operator.");
    tab.until_shows("log", "@api (api): Yes, the operator.");

    ann.run(
        "const message = document.getElementById('message');
        for (let n = 0; n < 60; n += 1) {
            message.value = `line ${n}`;
            document.getElementById('composer').requestSubmit();
        }",
        &[],
    );
    tab.until_shows("log", "line 59");
    tab.click("to-overview");
    tab.until_shows("busy-clients", &user);
    tab.until_shows("busy-clients", "Ann");
    tab.until_shows("busy-rooms", "general");
    tab.run("history.back()", &[]);
    tab.until_shows("members", "Ann");

    tab.click(&format!("kick-{user}"));
    tab.fill("sanction-reason", "Calm down.");
    tab.click("sanction-confirm");
    ann.until_shows("start-error", "You were removed from the room: Calm down.");
    tab.until_shows("members", "This room has no users.");

    tab.go(&chat.server.operators_url(&format!("/admin/#/users/{user}")));
    tab.until_shows("facts", "Ann. Online, on 1 server");
    tab.until_shows("connections", "in no room");
    tab.until_shows("connections", "as Ann");
    let at = "document.querySelector('[data-testid=connections] time').innerText.match(/^\\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d UTC$/) !== null";
    tab.until(at, &[]);
    tab.click("ban");
    tab.fill("sanction-reason", "Spam.");
    tab.click("sanction-confirm");
    tab.until_shows("bans", "Spam.");
    tab.until_shows("facts", "Not online.");
    tab.click("to-bans");
    tab.until_shows("bans", &user);
    tab.until_shows("bans", "by the key api, since ");
    // The question may be declined, and has nothing to fill in.
    tab.click(&format!("unban-{user}"));
    tab.until_shows("sanction-title", &format!("Unban {user} from all servers"));
    tab.until_hidden("sanction-reason");
    tab.until_hidden("sanction-time");
    tab.click("sanction-cancel");
    tab.until_hidden("sanction-title");
    tab.until_shows("bans", &user);
    tab.click(&format!("unban-{user}"));
    tab.click("sanction-confirm");
    tab.until_shows("bans", "There are no bans.");
    browser.assert_no_errors(&["401", "WebSocket connection to"]);
}

#[test]
fn reader_sees_rooms_and_may_change_nothing() {
    let chat = Chat::start();
    let browser = Browser::start();
    let _ann = chat.member(&browser);
    let tab = browser.open("about:blank");
    chat.log_in(&tab, READER);
    tab.until_shows("view", "need a key with the scope admin");
    tab.go(&chat.server.operators_url("/admin/#/rooms/general"));
    let user = listed_user(&tab);
    let buttons = "document.querySelectorAll('#view button, #view input').length === 0";
    tab.until(buttons, &[]);
    tab.go(&chat.server.operators_url(&format!("/admin/#/users/{user}")));
    tab.until_shows("facts", "Online");
    tab.until(buttons, &[]);
    // A reload needs the key no more; a logout forgets it.
    tab.run("location.reload()", &[]);
    tab.until_shows("facts", "Online");
    tab.click("logout");
    tab.run("location.reload()", &[]);
    tab.until_shows("key", "");
    browser.assert_no_errors(&[]);
}

/// Each list needs its own scopes: that one may not be read hides no other.
#[test]
fn key_for_figures_alone_sees_the_clients_and_is_told_of_the_rest() {
    let chat = Chat::start();
    let browser = Browser::start();
    let _ann = chat.member(&browser);
    let tab = browser.open("about:blank");
    chat.log_in(&tab, WATCHER);
    tab.until_shows("busy-clients", "");
    tab.until_shows("view", "The list of rooms needs a key with the scope read as well.");
    tab.until_hidden("problem");
    for view in ["rooms", "rooms/general"] {
        tab.go(&chat.server.operators_url(&format!("/admin/#/{view}")));
        tab.until_shows("view", "needs a key with the scope read");
    }
    tab.go(&chat.server.operators_url("/admin/#/users/x"));
    tab.until_shows("facts", "a key with the scope read");
    tab.until_shows("connections", "no connection to");
    tab.until_hidden("problem");
    browser.assert_no_errors(&[]);
}

/// A browser takes these out of the path of a request.
#[test]
fn user_and_room_of_dots_are_read_and_banned() {
    let chat = Chat::start();
    let browser = Browser::start();
    let ann = browser.open(&chat.server.url("/"));
    ann.run(
        "window.socket = new WebSocket(`ws://${location.host}/ws?userId=..`, 'chat.v1');
        socket.onopen = () => socket.send(JSON.stringify({ type: 'join', room: '.' }));",
        &[],
    );
    let tab = browser.open("about:blank");
    chat.log_in(&tab, KEY);
    tab.go(&chat.server.operators_url("/admin/#/rooms/."));
    tab.until_shows("facts", "1 user");
    tab.until_shows("members", "..");
    tab.go(&chat.server.operators_url("/admin/#/users/.."));
    tab.until_shows("facts", "Online, on 1 server");
    tab.click("ban");
    tab.fill("sanction-reason", "Spam.");
    tab.click("sanction-confirm");
    tab.until_shows("bans", "Spam.");
    tab.until_shows("facts", "Not online.");
    tab.until_hidden("problem");
    browser.assert_no_errors(&["WebSocket connection to"]);
}

#[test]
fn limits_that_were_reached_are_named() {
    let chat = Chat::start();
    let browser = Browser::start();
    let tab = browser.open("about:blank");
    chat.log_in(&tab, KEY);
    // Connections for requests without a key count as well.
    tab.run("fetch('/api/rooms')", &[]);
    tab.until_shows("limits", "Limits reached in these ten minutes: api_key once.");
    tab.run("for (let n = 0; n < 2; n += 1) fetch('/api/rooms')", &[]);
    tab.until_shows("limits", "Limits reached in these ten minutes: api_key about 3 times.");
    browser.assert_no_errors(&["401"]);
}

/// The latencies of messages are of the time when there were some; the plot has a gap between.
#[test]
fn latency_of_what_has_ended_is_none_now() {
    let chat = Chat::start();
    let browser = Browser::start();
    let ann = chat.member(&browser);
    let tab = browser.open("about:blank");
    chat.log_in(&tab, KEY);
    ann.fill("message", "hi");
    ann.click("send");
    tab.until_shows("publish_ms", " ms");
    tab.until_shows("publish_ms", "none");
    ann.fill("message", "hi again");
    ann.click("send");
    tab.until("document.querySelectorAll('[data-testid=publish_ms] .line').length === 2", &[]);
    tab.until("document.querySelectorAll('[data-testid=connections] .line').length === 1", &[]);
    browser.assert_no_errors(&[]);
}

/// What an operator decides by is on the screen, whatever the ids are like.
#[test]
fn long_ids_leave_figures_and_buttons_on_the_screen() {
    let chat = Chat::start();
    let browser = Browser::start();
    let crowd = chat.member(&browser);
    let room = ROOM.repeat(4);
    crowd.run(CROWD, &[LONGEST, &room]);
    chat.server.post(
        &format!("/api/rooms/elsewhere-{ROOM}/ban"),
        KEY,
        &format!("{{\"user\":\"{LONGEST}\"}}"),
    );
    for (tab, width) in
        [(browser.open("about:blank"), 1280), (browser.open_phone("about:blank"), 390)]
    {
        chat.log_in(&tab, KEY);
        for (view, id, decisive) in [
            ("", "busy-clients", ".number"),
            ("", "busy-rooms", ".number"),
            ("", "servers", "td"),
            (&*format!("rooms/{room}"), "members", "button"),
            (&*format!("users/{LONGEST}"), "connections", "td:last-child"),
            ("bans", "bans", "button"),
        ] {
            tab.go(&chat.server.operators_url(&format!("/admin/#/{view}")));
            tab.until(&format!("document.querySelector('[data-testid={id}] tbody') !== null"), &[]);
            assert_fits(&tab);
            let wide = tab.run("return document.documentElement.scrollWidth", &[]);
            assert!(wide.as_u64().unwrap() <= width, "{id}: {wide} of {width}");
            let cut = tab.run(CUT, &[id, decisive]);
            assert_eq!(cut, serde_json::json!([]), "{id} at {width}");
        }
    }
    let tab = browser.open("about:blank");
    chat.log_in(&tab, KEY);
    tab.go(&chat.server.operators_url(&format!("/admin/#/users/{LONGEST}")));
    tab.until_shows("connections", &format!("in {room}"));
    browser.assert_no_errors(&[]);
}

const LONGEST: &str = "account-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789-xy";

const ROOM: &str = "a-room-without-a-space-in-it-";

/// Eight clients with the ids that are usual and a long one, in a room, of which one is banned elsewhere.
const CROWD: &str = "
    const [longest, room] = arguments;
    const ids = [longest, ...Array.from({ length: 7 }, () => crypto.randomUUID())];
    window.crowd = ids.map((id) => {
        const socket = new WebSocket(`ws://${location.host}/ws?userId=${id}`, 'chat.v1');
        socket.addEventListener('open', () => {
            socket.send(JSON.stringify({ type: 'join', room }));
            for (let n = 0; n < 40; n += 1) {
                socket.send(JSON.stringify({ type: 'send', room, message: 'x'.repeat(99) }));
            }
        });
        return socket;
    });";

/// The parts of a table that its frame, or the window, cuts off.
const CUT: &str = "
    const [id, decisive] = arguments;
    const frame = document.querySelector(`[data-testid=${id}]`);
    const right = Math.min(frame.getBoundingClientRect().right, document.documentElement.clientWidth);
    const parts = [...frame.querySelectorAll(decisive)];
    const cut = parts.filter((part) => part.getBoundingClientRect().right > right + 1);
    return parts.length > 0 ? cut.map((part) => part.outerHTML) : ['nothing'];";

#[test]
fn servers_of_a_fleet_are_told_apart() {
    let redis = RedisServer::start();
    let url = redis.url();
    let arguments = ["--metrics-addr", "127.0.0.1:0", "--api-key", KEY, "--redis-url", &url];
    let [one, other] = [Server::start_with(&arguments), Server::start_with(&arguments)];
    let browser = Browser::start();
    let tab = browser.open(&one.operators_url("/admin/"));
    tab.fill("key", KEY);
    tab.click("login");
    tab.until("document.querySelectorAll('[data-testid=servers] tbody tr').length === 2", &[]);
    tab.until_shows("elsewhere", "ssh -L ");
    let marked = "document.querySelectorAll('[data-testid=servers] .here').length === 1
        && document.querySelector('tr:has(.here) td .muted').innerText";
    let here = tab.until(marked, &[]).as_str().unwrap().to_owned();
    tab.until_shows("this-server", &here);
    let listed = "document.querySelector('[data-testid=elsewhere]').innerText";
    let named = tab.until(listed, &[]).as_str().unwrap().to_owned();
    assert!(!named.contains(&here), "{named}");
    let tunnel = format!("ssh -L {}:127.0.0.1:{} ", one.operators() + 1, other.operators());
    tab.until_shows("elsewhere", &tunnel);
    // A user of the other server.
    let ann = browser.open(&other.url("/?user=Ann&room=general"));
    ann.until_shows("log", "You joined the room.");
    tab.go(&one.operators_url("/admin/#/rooms/general"));
    let user = listed_user(&tab);
    tab.go(&one.operators_url(&format!("/admin/#/users/{user}")));
    tab.until_shows("facts", "Ann. Online, on 1 server; 0 connections to this one.");
    tab.until_shows("connections", "no connection to this server");
    tab.until_shows("other", "1 connection to ");
    tab.until_shows("other", "as Ann");
    tab.until_shows("other", &tunnel);
    let link = tab.run("return document.querySelector('[data-testid=other] a').href", &[]);
    let there = format!("http://localhost:{}/admin/#/users/{user}", one.operators() + 1);
    assert_eq!(link, there);
    browser.assert_no_errors(&[]);
}

/// A server that ends leaves a trace for ten minutes, also while another view is shown.
#[test]
fn server_that_has_crashed_stays_in_the_list_for_ten_minutes() {
    let redis = RedisServer::start();
    let url = redis.url();
    let arguments = ["--metrics-addr", "127.0.0.1:0", "--api-key", KEY, "--redis-url", &url];
    let one = Server::start_with(&arguments);
    let mut other = Server::start_with(&arguments);
    let browser = Browser::start();
    let tab = browser.open(&one.operators_url("/admin/"));
    tab.fill("key", KEY);
    tab.click("login");
    tab.until("document.querySelectorAll('[data-testid=servers] tbody tr').length === 2", &[]);
    let node =
        "document.querySelector('[data-testid=servers] tr:not(:has(.here)) td .muted').innerText";
    let node = tab.until(node, &[]).as_str().unwrap().to_owned();
    other.kill();
    tab.run_async(UNTIL_ALONE, &[KEY]);
    let gone = "[...document.querySelectorAll('[data-testid=servers] tbody tr')]
        .some((row) => row.innerText.includes(arguments[0])
            && /was here until \\d\\d:\\d\\d UTC/.test(row.innerText))";
    tab.until(gone, &[&node]);
    accessibility::check(&tab, "a server that is gone");
    tab.click("to-rooms");
    tab.until_shows("rooms", "No room");
    tab.click("to-overview");
    tab.until(gone, &[&node]);
    let ahead = "const now = Date.now; Date.now = () => now() + arguments[0] * 60_000";
    tab.run(ahead, &["9"]);
    until_reads(&tab);
    tab.until(gone, &[&node]);
    tab.run(ahead, &["1"]);
    tab.until("document.querySelectorAll('[data-testid=servers] tbody tr').length === 1", &[]);
    browser.assert_no_errors(&[]);
}

/// Waits until a server that has crashed is not listed any longer, which takes 15 s.
const UNTIL_ALONE: &str = "
    const headers = { Authorization: `Bearer ${arguments[0]}` };
    const read = async () => (await (await fetch('/api/nodes', { headers })).json()).nodes.length;
    while ((await read()) > 1) await new Promise((resolve) => setTimeout(resolve, 200));";

/// The cells of the list of servers that are marked: a row for each server.
const DIFFERING: &str = "JSON.stringify([...document.querySelectorAll('[data-testid=servers] tbody tr')]
    .map((row) => [...row.querySelectorAll('td:has(strong.bad)')].map((cell) => cell.dataset.label)))";

/// Of two servers none is the usual one; of three the one that is alone is marked, where it differs.
#[test]
fn servers_are_marked_where_they_differ() {
    let redis = RedisServer::start();
    let url = redis.url();
    let start = |secret: &'static str| {
        let arguments = ["--metrics-addr", "127.0.0.1:0", "--api-key", KEY, "--redis-url", &url];
        Server::start_with(&[&arguments[..], &["--jwt-secret", secret]].concat())
    };
    let one = start("0123456789abcdef0123456789abcdef");
    let _other = start("another-secret-of-32-bytes-or-more");
    let browser = Browser::start();
    let tab = browser.open(&one.operators_url("/admin/"));
    tab.fill("key", KEY);
    tab.click("login");
    let marked = "[\"Host\",\"Token keys\"]";
    let is = format!("{DIFFERING} === arguments[0]");
    tab.until(&is, &[&format!("[{marked},{marked}]")]);
    let _third = start("0123456789abcdef0123456789abcdef");
    let only_one = format!("JSON.stringify(JSON.parse({DIFFERING}).sort()) === arguments[0]");
    tab.until(&only_one, &[&format!("[[],[],{marked}]")]);
    browser.assert_no_errors(&[]);
}

#[test]
fn part_of_an_id_or_of_a_name_leads_to_the_user() {
    let chat = Chat::start();
    let browser = Browser::start();
    let _ann = chat.member(&browser);
    let tab = browser.open("about:blank");
    chat.log_in(&tab, KEY);
    tab.go(&chat.server.operators_url("/admin/#/rooms/general"));
    let user = listed_user(&tab);
    for part in ["aN", &user[..user.len() - 1]] {
        tab.click("to-users");
        tab.fill("user", part);
        tab.click("user-submit");
        tab.until_shows("facts", "Not online.");
        tab.until_shows("similar", "matched whole");
        tab.until_shows("found", "Ann");
        // Nobody is banned by a part of an id without being told so.
        tab.click("ban");
        tab.until_shows("sanction-title", part);
        tab.until_shows("sanction-note", "No user with this id is online");
        tab.click("sanction-cancel");
        tab.run("document.querySelector('[data-testid=found] a').click()", &[]);
        tab.until_shows("title", &user);
        tab.until_shows("facts", "Ann. Online");
        tab.until_hidden("similar");
    }
    tab.click("ban");
    tab.until_hidden("sanction-note");
    browser.assert_no_errors(&[]);
}

#[test]
fn question_about_a_user_ends_with_the_view() {
    let chat = Chat::start();
    let browser = Browser::start();
    let tab = browser.open("about:blank");
    chat.log_in(&tab, KEY);
    tab.click("to-users");
    for leave in ["history.back()", "location.hash = '#/rooms'"] {
        tab.go(&chat.server.operators_url("/admin/#/users/x"));
        tab.click("ban");
        tab.until_shows("sanction-title", "Ban x from all servers");
        tab.run(leave, &[]);
        tab.until_hidden("sanction-title");
        // The keyboard goes on from the heading of the view.
        tab.until("document.activeElement.tagName === 'H1'", &[]);
    }
    tab.click("to-bans");
    tab.until_shows("bans", "There are no bans.");
    browser.assert_no_errors(&[]);
}

#[test]
fn first_message_of_a_room_follows_on_nothing() {
    let chat = Chat::start();
    let browser = Browser::start();
    let tab = browser.open("about:blank");
    chat.log_in(&tab, KEY);
    tab.go(&chat.server.operators_url("/admin/#/rooms/new"));
    tab.until_shows("facts", "0 users");
    tab.until_shows("members", "no users");
    for message in ["first", "second"] {
        tab.fill("message", message);
        tab.click("message-submit");
        tab.until_shows("log", &format!("@api (api): {message}"));
    }
    let log = tab.run("return document.querySelector('[data-testid=log]').innerText", &[]);
    assert!(!log.as_str().unwrap().contains("missing"), "{log}");
    browser.assert_no_errors(&[]);
}

/// A list that changes leaves the focus where it is, also below a dialog.
#[test]
fn keyboard_stays_at_its_place_in_a_list_that_changes() {
    let chat = Chat::start();
    let browser = Browser::start();
    let _ann = chat.member(&browser);
    let tab = browser.open("about:blank");
    chat.log_in(&tab, KEY);
    tab.go(&chat.server.operators_url("/admin/#/rooms/general"));
    let kick = format!("kick-{}", listed_user(&tab));
    tab.run("document.querySelector(`[data-testid=${arguments[0]}]`).focus()", &[&kick]);
    let focused = "document.activeElement.dataset.testid === arguments[0]";
    let _bob = browser.open(&chat.server.url("/?user=Bob&room=general"));
    tab.until_shows("members", "Bob");
    tab.until(focused, &[&kick]);
    tab.press(&key::ENTER.to_string());
    tab.until_shows("sanction-title", "Kick Ann (");
    let _eve = browser.open(&chat.server.url("/?user=Eve&room=general"));
    tab.until_shows("members", "Eve");
    tab.press(&key::ESCAPE.to_string());
    tab.until_hidden("sanction-title");
    tab.until(focused, &[&kick]);
    browser.assert_no_errors(&[]);
}

/// The figures of a server are not those of the process before it.
#[test]
fn server_that_comes_back_shows_its_own_figures() {
    let address = format!("127.0.0.1:{}", free_port());
    let mut server = Server::start_with(&["--metrics-addr", &address, "--api-key", KEY]);
    let browser = Browser::start();
    let tab = browser.open(&server.operators_url("/admin/"));
    tab.fill("key", KEY);
    tab.click("login");
    tab.until("document.querySelector('[data-testid=connections] .line') !== null", &[]);
    let name = "document.querySelector('[data-testid=this-server]').innerText";
    let before = tab.until(name, &[]).as_str().unwrap().to_owned();
    tab.until_shows("state", "ready for clients");
    tab.until_shows("servers", "");
    tab.until_shows("view", "at most 10 s old");
    server.kill();
    tab.until_shows("problem", "does not answer");
    accessibility::check(&tab, "a server that does not answer");
    let view = tab.run("return document.querySelector('[data-testid=view]').innerText", &[]);
    let view = view.as_str().unwrap();
    assert!(!view.contains("ready for clients") && !view.contains("at most 10 s old"), "{view}");
    server.restart();
    // A line has two samples, of ten seconds.
    let other = format!(
        "{name} !== arguments[0] && !document.querySelector('[data-testid=connections] .line')"
    );
    tab.until(&other, &[&before]);
    tab.until_hidden("problem");
    tab.until_shows("state", "ready for clients");
    browser.assert_no_errors(&["ERR_CONNECTION"]);
}

#[test]
fn page_says_how_full_redis_is() {
    let redis = RedisServer::start_with(&["--maxmemory", "100mb"]);
    let url = redis.url();
    let arguments = ["--metrics-addr", "127.0.0.1:0", "--api-key", KEY, "--redis-url", &url];
    let server = Server::start_with(&arguments);
    let browser = Browser::start();
    let tab = browser.open(&server.operators_url("/admin/"));
    tab.fill("key", KEY);
    tab.click("login");
    let chip = |kind: &str| {
        let chips = format!("[...document.querySelectorAll('[data-testid=state] .{kind}')]");
        format!("{chips}.some((chip) => /^Redis is \\d+ % full$/.test(chip.innerText))")
    };
    tab.until(&chip("good"), &[]);
    let runtime = Runtime::new().unwrap();
    let info = runtime.block_on(redis.command(&["INFO", "memory"]));
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")?.parse().ok());
    let max = used.map(|used: u64| (used * 10 / 9).to_string()).unwrap();
    runtime.block_on(redis.command(&["CONFIG", "SET", "maxmemory", &max]));
    tab.until(&chip("bad"), &[]);
    browser.assert_no_errors(&[]);
}

#[test]
fn outage_of_redis_leaves_the_figures_on_the_page() {
    let redis = RedisServer::start();
    let url = redis.url();
    let arguments = ["--metrics-addr", "127.0.0.1:0", "--api-key", KEY, "--redis-url", &url];
    let server = Server::start_with(&arguments);
    drop(redis);
    let browser = Browser::start();
    let tab = browser.open(&server.operators_url("/admin/"));
    tab.fill("key", KEY);
    tab.click("login");
    tab.until_shows("state", "Redis accepts no messages");
    tab.until_shows("state", "Connection refused");
    tab.until_shows("connections", "0");
    tab.until_shows("problem", "does not answer. Try again later.");
    // The list of servers alone is of the past.
    tab.until("document.querySelectorAll('#view .stale').length === 1", &[]);
    tab.until("document.querySelector('#view').matches(':not(.stale)')", &[]);
    browser.assert_no_errors(&["503"]);
}

#[test]
fn address_without_a_path_leads_to_the_page() {
    let chat = Chat::start();
    let browser = Browser::start();
    let tab = browser.open(&chat.server.operators_url("/"));
    tab.until_shows("key", "");
    assert_eq!(tab.run("return location.href", &[]), chat.server.operators_url("/admin/"));
    browser.assert_no_errors(&[]);
}

/// Waits until the page has read twice more: what it read at first has been shown, and has succeeded.
fn until_reads(tab: &Tab<'_>) {
    let reads = "window.reads ??= (() => {
        const call = window.fetch;
        window.fetch = (url, options) => {
            if (options?.method === 'GET') window.reads += 1;
            return call(url, options);
        };
        return 0;
    })()";
    let before = tab.run(&format!("return {reads}"), &[]).as_u64().unwrap();
    // Each view that reads again makes three requests at a time, or four.
    tab.until(&format!("({reads}) >= {}", before + 5), &[]);
}

/// What a page reads of a Redis that is full succeeds: that hides no message which was not sent.
#[test]
fn message_that_was_refused_is_said_to_be_until_the_next_action() {
    let redis = RedisServer::start();
    let url = redis.url();
    let arguments = ["--metrics-addr", "127.0.0.1:0", "--api-key", KEY, "--redis-url", &url];
    let server = Server::start_with(&arguments);
    let browser = Browser::start();
    let tab = browser.open(&server.operators_url("/admin/#/rooms/general"));
    tab.fill("key", KEY);
    tab.click("login");
    tab.until_shows("facts", "0 users");
    let runtime = Runtime::new().unwrap();
    let set = |most: &str| {
        runtime.block_on(redis.command(&["CONFIG", "SET", "maxmemory", most]));
    };
    let refused = || {
        tab.click("message-submit");
        tab.until_shows("failure", "Sending the message failed: ");
        until_reads(&tab);
        tab.until_shows("failure", "Sending the message failed: ");
        tab.until_hidden("problem");
    };
    set("1");
    tab.fill("message", "Is anybody there?");
    refused();
    accessibility::check(&tab, "an action that failed");
    assert_fits(&tab);
    tab.click("failure-close");
    tab.until_hidden("failure");
    refused();
    tab.run("location.hash = '#/rooms'", &[]);
    tab.until_hidden("failure");
    tab.go(&server.operators_url("/admin/#/rooms/general"));
    tab.fill("message", "Is anybody there?");
    refused();
    set("0");
    tab.until(UNTIL_SENT, &[]);
    tab.until_shows("log", "Is anybody there?");
    tab.until_hidden("failure");
    browser.assert_no_errors(&["507", "503"]);
}

/// Presses the button until the server has noticed that Redis has room again.
const UNTIL_SENT: &str = "(() => {
        const field = document.querySelector('[data-testid=message]');
        if (field.value !== '') field.form.requestSubmit();
        return field.value === '';
    })()";

/// Each action says what has failed, and the reads that follow do not hide it.
#[test]
fn sanction_that_failed_is_said_to_have() {
    let chat = Chat::start();
    let browser = Browser::start();
    let _ann = chat.member(&browser);
    let tab = browser.open("about:blank");
    chat.log_in(&tab, KEY);
    tab.go(&chat.server.operators_url("/admin/#/rooms/general"));
    let user = listed_user(&tab);
    chat.server.post("/api/rooms/elsewhere/ban", KEY, &format!("{{\"user\":\"{user}\"}}"));
    tab.run(REFUSING, &[]);
    let fails = |button: &str, what: &str| {
        tab.click(button);
        tab.until_shows("sanction-confirm", "");
        tab.click("sanction-confirm");
        let text = format!("{what} failed: Not today.");
        tab.until_shows("failure", &text);
        until_reads(&tab);
        tab.until_shows("failure", &text);
        tab.until_hidden("problem");
    };
    fails(&format!("kick-{user}"), "Kicking Ann");
    fails(&format!("ban-{user}"), "Banning Ann");
    tab.run("location.hash = `#/users/${arguments[0]}`", &[&user]);
    tab.until_shows("facts", "Ann. Online");
    tab.until_hidden("failure");
    fails("disconnect", "Disconnecting the user");
    fails("ban", "Banning the user");
    fails(&format!("unban-{user}"), "Unbanning the user");
    tab.fill("message", "Hello");
    tab.click("message-submit");
    tab.until_shows("failure", "Sending the message failed: Not today.");
    browser.assert_no_errors(&[]);
}

/// Refuses what changes something.
const REFUSING: &str = "
    const call = window.fetch;
    const refusal = JSON.stringify({ code: 'internal_error', message: 'Not today.' });
    window.fetch = async (url, options) =>
        options?.method === 'POST' ? new Response(refusal, { status: 500 }) : call(url, options);";

#[test]
fn page_is_not_on_the_port_for_clients() {
    let chat = Chat::start();
    let (status, _, _) = chat.server.request("GET /admin/", &["Host: localhost"]);
    assert_eq!(status, 404);
}

#[test]
fn names_and_messages_are_text() {
    let chat = Chat::start();
    let browser = Browser::start();
    let name = "<img src=x onerror=alert(1)>";
    let ann = browser.open(&chat.server.url("/?room=a%2Fb%20%3Cb%3E"));
    ann.fill("name", name);
    ann.click("join");
    ann.until_shows("log", "You joined the room.");
    ann.fill("message", "<script>alert(1)</script>");
    ann.click("send");
    let tab = browser.open("about:blank");
    chat.log_in(&tab, KEY);
    tab.click("to-rooms");
    tab.until_shows("rooms", "a/b <b>");
    tab.run("document.querySelector('[data-testid=rooms] a').click()", &[]);
    tab.until_shows("title", "a/b <b>");
    tab.until_shows("log", "<script>alert(1)</script>");
    tab.until_shows("members", name);
    browser.assert_no_errors(&[]);
}

#[test]
fn axe_finds_nothing_and_all_fits_on_a_desktop_and_on_a_phone() {
    let chat = Chat::start();
    let browser = Browser::start();
    let ann = chat.member(&browser);
    ann.fill("message", &"a-word-without-a-space-".repeat(20));
    ann.click("send");
    for tab in [browser.open("about:blank"), browser.open_phone("about:blank")] {
        tab.go(&chat.server.operators_url("/admin/"));
        tab.until_shows("key", "");
        accessibility::check(&tab, "the login");
        chat.log_in(&tab, KEY);
        tab.until_shows("servers", "0.1.0");
        for (view, id, text) in [
            ("", "state", "ready"),
            ("rooms", "rooms", "general"),
            ("rooms/general", "log", "a-word"),
            ("users/x", "facts", "Not online"),
            ("bans", "bans", "no bans"),
        ] {
            tab.go(&chat.server.operators_url(&format!("/admin/#/{view}")));
            tab.until_shows(id, text);
            accessibility::check(&tab, view);
            assert_fits(&tab);
        }
        tab.go(&chat.server.operators_url("/admin/#/users/x"));
        tab.until_shows("facts", "Not online");
        tab.click("ban");
        tab.until_shows("sanction-reason", "");
        accessibility::check(&tab, "the dialog");
    }
    browser.assert_no_errors(&[]);
}
