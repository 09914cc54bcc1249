//! The module `chat-client.js` with each WebSocket that it may meet: those of Chromium, of Node,
//! and of its packages `ws` and `undici`. They differ in which events a failure has.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use chat_broker::testing::{TcpProxy, free_port};
use serde_json::{Value, json};

use crate::AWAY;
use crate::faults;
use crate::server::Server;
use crate::webdriver::Browser;

const SCENARIOS: &str = include_str!("runtimes.js");

/// The packages of npm that the tests use.
pub(crate) const PACKAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/npm");

#[test]
fn module_in_chromium() {
    let addresses = Addresses::make();
    let browser = Browser::start();
    let tab = browser.open(&addresses.server.url("/"));
    let script = format!(
        "const {{ ChatClient }} = await import('/web/chat-client.js');
        const WebSocket = undefined;
        const unhandled = [];
        for (const type of ['error', 'unhandledrejection']) {{
            window.addEventListener(type, (event) => unhandled.push(String(event.reason ?? event.message)));
        }}
        {addresses}{SCENARIOS}
        const outcomes = {RUN_ALL};
        // The policy of the page knows this host by its name alone.
        outcomes.forbidden = await attemptsAt(server.replace('localhost', '127.0.0.1'));
        return {{ outcomes, unhandled }};"
    );
    let result = tab.run_async(&script, &[]);
    assert_eq!(result["unhandled"], json!([]));
    let mut outcomes = result["outcomes"].clone();
    let forbidden = outcomes.as_object_mut().unwrap().remove("forbidden");
    assert_eq!(forbidden, Some(quick()));
    assert_outcomes(&outcomes);
    browser.assert_no_errors(&[AWAY, "Content Security Policy", "net::ERR"]);
}

#[test]
fn module_with_ws() {
    assert_outcomes(&in_node("import { WebSocket } from 'ws';"));
}

#[test]
fn module_with_undici() {
    assert_outcomes(&in_node("import { WebSocket } from 'undici';"));
}

/// Node's own fires no `close` where a connection is refused.
#[test]
fn module_with_node() {
    assert_outcomes(&in_node("const { WebSocket } = globalThis;"));
}

const RUN_ALL: &str = "await (async () => {
    const outcomes = {};
    for (const [name, scenario] of Object.entries(scenarios)) {
        outcomes[name] = await scenario().catch(String);
    }
    return outcomes;
})()";

fn assert_outcomes(outcomes: &Value) {
    let nothing = json!({
        "503": quick(), "200": quick(), "empty": quick(), "garbage": quick(), "refused": quick(),
    });
    let states = ["connecting", "online", "closed"];
    let expected = json!({
        "talks": {"texts": ["hi \u{1f44b}", "again"], "members": 1, "messages": 1, "name": "Bob"},
        "tries_again_where_nothing_is": nothing,
        "closes_while_it_connects": ["online"],
        "comes_back_after_a_loss": ["cut", "garble"],
        "drops_all_that_it_calls": "well",
        "finds_a_dead_line": "well",
        "sleeps": {"codes": ["none", "none"], "states": states},
    });
    assert_eq!(outcomes, &expected);
}

/// The outcome of a connection to where nothing is.
fn quick() -> Value {
    json!({"isQuick": true, "connected": "closed", "last": "closed"})
}

/// Runs all scenarios under Node, which ends with an error at whatever is not handled.
fn in_node(import: &str) -> Value {
    let packages = Path::new(PACKAGES);
    assert!(packages.join("node_modules").exists(), "packages of npm are missing: .ci/install");
    let module = copy_of_the_module();
    let addresses = Addresses::make();
    let script = format!(
        "import {{ ChatClient }} from {:?};
        {import}
        setTimeout(() => process.exit(2), 120_000).unref();
        {addresses}{SCENARIOS}
        console.log(JSON.stringify({RUN_ALL}));",
        module.join("chat-client.js")
    );
    let mut node = Command::new("node")
        .args(["--input-type=module", "--unhandled-rejections=strict"])
        // Node 20 has a WebSocket for those who ask.
        .arg("--experimental-websocket")
        .current_dir(packages)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("node; install it with `apt-get install nodejs`");
    node.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = node.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// As the documentation says: all that is named `chat-*`, in a project of one's own.
fn copy_of_the_module() -> PathBuf {
    static COPIES: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = COPIES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let project = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("module-{number}"));
    std::fs::create_dir_all(&project).unwrap();
    std::fs::write(project.join("package.json"), r#"{"type":"module"}"#).unwrap();
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/web")).unwrap() {
        let file = file.unwrap();
        if file.file_name().to_str().unwrap().starts_with("chat-") {
            std::fs::copy(file.path(), project.join(file.file_name())).unwrap();
        }
    }
    project
}

/// A server, and what lies between it and a client.
struct Addresses {
    server: Server,
    proxy: u16,
    faults: u16,
    refused: u16,
}

impl Addresses {
    fn make() -> Self {
        let server = Server::start();
        let network = TcpProxy::start(server.port());
        let proxy = network.port();
        Self { server, proxy, faults: faults::serve(network), refused: free_port() }
    }
}

impl std::fmt::Display for Addresses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { server, proxy, faults, refused } = self;
        write!(
            f,
            "const server = 'ws://localhost:{}/ws';
            const proxy = 'ws://localhost:{proxy}/ws';
            const faults = 'http://localhost:{faults}';
            const refused = 'ws://localhost:{refused}/ws';",
            server.port()
        )
    }
}
