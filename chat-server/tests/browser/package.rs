//! The package of npm, installed from its tarball, with a server: in an application that Vite has built,
//! and in the bot of the documentation.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::LazyLock;

use crate::AWAY;
use crate::runtimes::PACKAGES;
use crate::server::Server;
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

#[test]
fn bot_of_the_documentation_answers() {
    let server = Server::start();
    let _bot = Node::start(&["examples/bot.js"], &server);
    let mut asker = Node::start(&["--input-type=module"], &server);
    let script = "
        import { ChatClient } from 'roomcast';
        import { WebSocket } from 'undici';
        const chat = new ChatClient(process.env.CHAT_URL, { name: 'Cid', WebSocket });
        const answer = new Promise((resolve) => {
            chat.on('message', ({ user, message }) => user.name === 'Echo' && resolve(message));
        });
        chat.connect();
        const room = chat.room('general');
        const hasBot = () => room.snapshot.members.some(({ name }) => name === 'Echo');
        room.on('change', () => hasBot() && !room.snapshot.messages.length && room.send('hi'));
        console.log(await answer);
        chat.close();";
    asker.child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert_eq!(asker.line(), "Cid said: hi");
}

fn socket(server: &Server) -> String {
    format!("ws://localhost:{}/ws", server.port())
}

/// A program of Node among the packages, which ends with the test.
struct Node {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Node {
    fn start(args: &[&str], server: &Server) -> Self {
        LazyLock::force(&INSTALLED);
        let mut child = Command::new("node")
            .args(args)
            .current_dir(PACKAGES)
            .env("CHAT_URL", socket(server))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node; install it with `apt-get install nodejs`");
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// The next line that it prints.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
