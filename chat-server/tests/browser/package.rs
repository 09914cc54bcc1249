//! The package of npm, installed from its tarball, with a server: in an application that Vite has built,
//! in the bot of the documentation, and in members whose connections and servers end.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use chat_broker::testing::{Direction, RedisServer, TcpProxy};
use serde_json::{Value, json};

use crate::AWAY;
use crate::runtimes::PACKAGES;
use crate::server::Server;
use crate::tokens::{KEY, SECRET, moderator_token};
use crate::webdriver::Browser;

/// Installs the package, once.
static INSTALLED: LazyLock<()> = LazyLock::new(|| {
    let packed = Command::new("node").arg("pack.js").current_dir(PACKAGES).output().unwrap();
    assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
});

#[test]
fn application_built_by_vite_chats() {
    let server = Server::start();
    let mut app = Node::start(&["serve.js"], &server);
    let address = app.line();
    let browser = Browser::start();
    let tab = browser.open(&format!("{address}?guest&server={}", socket(&server)));
    tab.until_shows("connection", "Connected");
    tab.until_shows("members", "1: Ann");
    tab.fill("text", "Hello");
    tab.click("send");
    tab.until_shows("log", "Ann: Hello https://files.example/1");
    browser.assert_no_errors(&[AWAY]);
}

/// An address that is none ends it with the reason, and the code 1.
#[test]
fn bot_of_the_documentation_says_why_it_ends() {
    let mut bot = Node::start_with(&["examples/bot.js"], &[("CHAT_URL", "127.0.0.1:8080")]);
    bot.until("closed Invalid URL");
    assert_eq!(bot.child.wait().unwrap().code(), Some(1));
}

/// Its server is away when it starts; it ends at SIGTERM; and it answers what was said meanwhile, once.
#[test]
fn bot_of_the_documentation_answers_across_restarts() {
    let mut server = Server::start();
    server.kill();
    let url = socket(&server);
    let state = std::env::temp_dir().join(format!("bot-state-{}", std::process::id()));
    let _ = std::fs::remove_file(&state);
    let variables = [("CHAT_URL", url.as_str()), ("STATE", state.to_str().unwrap())];
    let start_bot = || Node::start_with(&["examples/bot.js"], &variables);
    let mut bot = start_bot();
    bot.until("waiting");
    let mut asker = Node::start(&["--input-type=module"], &server);
    let script = "
        import { ChatClient } from 'roomcast';
        import { WebSocket } from 'undici';
        // Without an answer the test fails.
        setTimeout(() => process.exit(), 40_000).unref();
        const chat = new ChatClient(process.env.CHAT_URL, { name: 'Cid', WebSocket, backoffCapMs: 200 });
        chat.on('message', ({ user, message }) => user.name === 'Bot' && console.log(message));
        chat.on('presence', ({ event, user }) => console.log(event, user.name));
        chat.connect();
        const room = chat.room('general');
        const isThere = () => room.snapshot.members.some(({ name }) => name === 'Bot');
        while (!isThere()) await new Promise((resolve) => room.on('change', resolve));
        const say = (text) => room.send(text);
        say('!echo hi');
        say('!who');
        say('!kick x');
        process.on('SIGUSR2', () => say('!echo missed').then(() => console.log('said')));";
    asker.child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    server.restart();
    asker.until("hi");
    let has_ids = |line: &String| line.starts_with("2: Bot (") && line.contains("), Cid (");
    assert!(std::iter::repeat_with(|| asker.line()).take(50).any(|line| has_ids(&line)));
    asker.until("That is for moderators.");
    assert_eq!(bot.end(), Some(0));
    asker.until("left Bot");
    let asker_id = asker.child.id().to_string();
    Command::new("kill").args(["-USR2", &asker_id]).status().unwrap();
    asker.until("said");
    let bot = start_bot();
    let said = std::iter::repeat_with(|| asker.line()).find(|line| !line.ends_with("Bot"));
    assert_eq!(said.as_deref(), Some("missed"));
    assert_eq!(bot.end(), Some(0));
    let _ = std::fs::remove_file(&state);
}

/// Nothing is lost, doubled or reordered while connections end, and servers are killed and started.
#[test]
fn chaos_through_the_package() {
    let redis = RedisServer::start();
    let mut servers = [Server::start_on(&redis), Server::start_on(&redis)];
    let proxies = servers.each_ref().map(|server| TcpProxy::start(server.port()));
    let urls = proxies.each_ref().map(|proxy| format!("ws://localhost:{}/ws", proxy.port()));
    let mut members = Node::start_with(&["chaos.js"], &[("CHAT_URLS", &urls.join(","))]);
    assert_eq!(members.line(), "joined");
    for round in 0..8 {
        sleep(Duration::from_millis(500));
        proxies[round % 2].cut(1.0);
        if round % 4 == 3 {
            let server = &mut servers[round / 4];
            server.kill();
            server.restart();
        }
    }
    writeln!(members.child.stdin.take().unwrap(), "stop").unwrap();
    let report: Value = serde_json::from_str(&members.line()).unwrap();
    let nothing =
        json!({"lost": 0, "doubled": 0, "reordered": 0, "jumps": 0, "gaps": 0, "failed": 0});
    assert_eq!(report["outcome"], nothing, "{report}");
    assert!(report["accepted"].as_u64() > Some(100), "{report}");
    assert!(report["losses"].as_u64() > Some(12), "{report}");
}

/// With the client's own times, over a line that swallows everything.
#[test]
fn swallowed_send_leads_out_of_online_in_time() {
    let server = Server::start();
    let network = TcpProxy::start(server.port());
    let url = format!("ws://localhost:{}/ws", network.port());
    let mut node = Node::start_with(&["--input-type=module"], &[("CHAT_URL", &url)]);
    let script = "
        import { ChatClient } from 'roomcast';
        import { WebSocket } from 'ws';
        const chat = new ChatClient(process.env.CHAT_URL, { name: 'Ann', WebSocket });
        await chat.connect();
        await chat.join('r');
        chat.on('state', ({ state }) => console.log(state));
        console.log('joined');
        chat.direct('bob', 'is answered').then(async () => {
            console.log('swallowing');
            await new Promise((resolve) => setTimeout(resolve, 300));
            chat.send('r', 'hi').then(() => console.log('sent'), ({ code }) => console.log(code));
        });";
    node.child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert_eq!(node.line(), "joined");
    assert_eq!(node.line(), "swallowing");
    network.swallow(Direction::ToClient);
    network.swallow(Direction::ToServer);
    let begin = Instant::now();
    assert_eq!(node.line(), "waiting");
    assert!(begin.elapsed() < Duration::from_secs(12), "{:?}", begin.elapsed());
    network.disconnect();
    network.restore();
    let lines = std::iter::from_fn(|| Some(node.line()));
    assert!(lines.take(10).any(|line| line == "sent"), "the message was not sent again");
}

/// More than the server takes at once: it reads what is behind them later.
#[test]
fn kicks_above_the_rate_are_carried_out_and_hold_back_no_message() {
    let server = Server::start_with(&["--jwt-secret", SECRET]);
    let (url, token) = (socket(&server), moderator_token());
    let variables = [("CHAT_URL", url.as_str()), ("TOKEN", token.as_str())];
    let mut node = Node::start_with(&["--input-type=module"], &variables);
    let script = "
        import { ChatClient } from 'roomcast';
        import { WebSocket } from 'ws';
        const { CHAT_URL, TOKEN: token } = process.env;
        const chat = new ChatClient(CHAT_URL, { token, WebSocket, requestTimeoutMs: 4_000 });
        await chat.connect();
        await chat.join('r');
        const kicks = Array.from({ length: 40 }, (_, number) => chat.kick('r', `user-${number}`));
        const codes = kicks.map((kick) => kick.then(() => 'ok', ({ code }) => code));
        let isOver = false;
        Promise.all(codes).then(() => (isOver = true));
        await chat.send('r', 'hi');
        const isHeldBack = isOver;
        const failed = (await Promise.all(codes)).filter((code) => code !== 'ok');
        console.log(JSON.stringify({ isHeldBack, failed }));
        chat.close();";
    node.child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let outcome: Value = serde_json::from_str(&node.line()).unwrap();
    assert_eq!(outcome, json!({"isHeldBack": false, "failed": []}));
}

#[test]
fn server_for_tests_answers_as_this_one() {
    let open = Server::start();
    // The secret and the key are those of `drift.js`.
    let with_tokens = Server::start_with(&["--jwt-secret", SECRET, "--api-key", KEY]);
    let without_history = Server::start_with(&["--history", "0"]);
    let urls = [&open, &with_tokens, &without_history].map(socket).join(",");
    let mut node = Node::start_with(&["drift.js"], &[("CHAT_URLS", &urls)]);
    let differences: Value = serde_json::from_str(&node.line()).unwrap();
    assert_eq!(differences, json!({"others": [], "ours": []}));
}

pub(crate) fn socket(server: &Server) -> String {
    format!("ws://localhost:{}/ws", server.port())
}

/// A program of Node among the packages, which ends with the test.
pub(crate) struct Node {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Node {
    fn start(args: &[&str], server: &Server) -> Self {
        Self::start_with(args, &[("CHAT_URL", &socket(server))])
    }

    pub(crate) fn start_with(args: &[&str], variables: &[(&str, &str)]) -> Self {
        LazyLock::force(&INSTALLED);
        let mut child = Command::new("node")
            .args(args)
            .current_dir(PACKAGES)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node; install it with `apt-get install nodejs`");
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Waits until it prints a line that begins so.
    fn until(&mut self, wanted: &str) {
        let line =
            std::iter::repeat_with(|| self.line()).take(50).find(|line| line.starts_with(wanted));
        assert!(line.is_some(), "never: {wanted}");
    }

    /// Ends it by SIGTERM. Returns its exit code.
    fn end(mut self) -> Option<i32> {
        Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
