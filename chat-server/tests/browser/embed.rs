//! The module in another page, the one in the documentation; and the page in another application.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use serde_json::json;
use tokio::runtime::Runtime;

use crate::server::Server;
use crate::webdriver::Browser;

#[test]
fn the_page_in_the_documentation_works_as_it_stands() {
    let server = Server::start();
    let docs = include_str!("../../../docs/javascript.md");
    let (_, example) = docs.split_once("```html\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let example = example.replace("localhost:8080", &format!("localhost:{}", server.port()));
    let browser = Browser::start();
    let tab = browser.open(&serve("", vec![("/", page(&example))]));
    tab.until(SHOWS, &["Ann: Hello from a page of my own"]);
    browser.assert_no_errors(&[]);
}

#[test]
fn policy_in_the_documentation_allows_the_client() {
    let server = Server::start();
    let docs = include_str!("../../../docs/javascript.md");
    let (_, policy) = docs.split_once("`script-src '").unwrap();
    let (policy, _) = policy.split_once('`').unwrap();
    let host = format!("localhost:{}", server.port());
    let policy =
        format!("default-src 'none'; img-src data:; script-src '{}", policy.replace('\n', " "))
            .replace("https://chat.example", &format!("http://{host}"))
            .replace("wss://chat.example", &format!("ws://{host}"));
    let (_, script) = docs.split_once("<script type=\"module\">").unwrap();
    let (script, _) = script.split_once("</script>").unwrap();
    let script = script.replace("localhost:8080", &host);
    let page = page("<ul id=log></ul><script type=module src=/page.js></script>");
    let browser = Browser::start();
    let tab = browser.open(&serve(&policy, vec![("/", page), ("/page.js", script)]));
    tab.until(SHOWS, &["Ann: Hello from a page of my own"]);
    browser.assert_no_errors(&[]);
}

/// The example of the documentation: the tabs are one user, with one connection.
#[test]
fn tabs_share_the_client_of_a_worker() {
    let server = Server::start();
    let worker = include_str!("../npm/examples/shared-worker.js")
        .replace("localhost:8080", &format!("localhost:{}", server.port()));
    let page = page(
        "<pre id=log></pre><b id=count></b><i id=state></i><button id=hello>Hello</button>
        <script type=module src=/shared-tab.js></script>",
    );
    let tab_script = include_str!("../npm/examples/shared-tab.js").to_owned();
    let address =
        serve("", vec![("/", page), ("/shared-worker.js", worker), ("/shared-tab.js", tab_script)]);
    let browser = Browser::start();
    let (one, two) = (browser.open(&address), browser.open(&address));
    for tab in [&one, &two] {
        tab.until("document.querySelector('#count').textContent === '1'", &[]);
        tab.until("document.querySelector('#state').textContent === 'joined'", &[]);
    }
    one.run("document.querySelector('#hello').click()", &[]);
    for tab in [&one, &two] {
        tab.until(SHOWS, &["Ann: Hello"]);
    }
    // A tab in the cache of the browser, which returns.
    one.run(
        "for (const type of ['pagehide', 'pageshow']) {
            dispatchEvent(new PageTransitionEvent(type, { persisted: true }));
        }",
        &[],
    );
    one.run("document.querySelector('#hello').click()", &[]);
    one.until(SHOWS, &["Ann: Hello\nAnn: Hello"]);
    // The last one of a room leaves it, and the other tab is still there.
    one.close();
    two.run("document.querySelector('#hello').click()", &[]);
    two.until(SHOWS, &["Ann: Hello\nAnn: Hello\nAnn: Hello"]);
    browser.assert_no_errors(&[]);
}

/// The example of the documentation, in control of a page whose chat is on another origin.
#[test]
fn service_worker_keeps_no_modules_of_the_server() {
    let server = Server::start();
    let module = server.url("/web/chat-client.js");
    let worker = include_str!("../npm/examples/service-worker.js").to_owned();
    let text = String::from("export {};");
    let files = vec![
        ("/", page("")),
        ("/service-worker.js", worker),
        ("/app.js", text.clone()),
        ("/web/chat-client.js", text),
    ];
    let browser = Browser::start();
    let tab = browser.open(&serve("", files));
    tab.run_async("await navigator.serviceWorker.register('/service-worker.js'); await navigator.serviceWorker.ready;", &[]);
    tab.run("location.reload()", &[]);
    tab.until("navigator.serviceWorker.controller !== null", &[]);
    let kept = tab.run_async(
        "for (const module of ['/app.js', '/web/chat-client.js', arguments[0]]) await import(module);
        const { ChatClient } = await import(arguments[0]);
        const chat = new ChatClient(arguments[0].replace('http', 'ws').replace('/web/chat-client.js', '/ws'));
        await chat.connect();
        chat.close();
        const requests = await (await caches.open('app-1')).keys();
        return requests.map(({ url }) => new URL(url).pathname).filter((path) => path !== '/');",
        &[&module],
    );
    assert_eq!(kept, json!(["/app.js"]));
    browser.assert_no_errors(&[]);
}

/// Whether the page's log is this text.
const SHOWS: &str = "document.querySelector('#log').textContent === arguments[0]";

fn page(body: &str) -> String {
    format!("<!doctype html><link rel=icon href=data:,>{body}")
}

/// Serves files by their paths, on a port of its own, under a policy. Returns the address.
fn serve(policy: &str, files: Vec<(&'static str, String)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://localhost:{}/", listener.local_addr().unwrap().port());
    let policy = match policy {
        "" => String::new(),
        policy => format!("Content-Security-Policy: {policy}\r\n"),
    };
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let head = BufReader::new(&stream).lines().map_while(Result::ok);
            let head: Vec<_> = head.take_while(|line| !line.is_empty()).collect();
            let path = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
            let (path, text) = files.iter().find(|(name, _)| *name == path).unwrap_or(&files[0]);
            let kind = if path.ends_with(".js") { "javascript" } else { "html" };
            let length = text.len();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: text/{kind}\r\nConnection: close\r\n{policy}\
                Content-Length: {length}\r\n\r\n{text}"
            );
        }
    });
    address
}

#[test]
fn nested_page_survives_a_reload_at_each_of_its_addresses() {
    let runtime = Runtime::new().unwrap();
    let port = runtime.block_on(nested_at_chat());
    let browser = Browser::start();
    let tab = browser.open(&format!("http://localhost:{port}/chat?user=Ann&room=general"));
    for path in ["/chat/join-room/general", "/chat/join-room/general/"] {
        tab.until_shows("log", "You joined the room.");
        tab.run("history.replaceState(null, '', arguments[0])", &[path]);
        tab.run("location.reload()", &[]);
        tab.until_shows("log", "");
    }
    // Dots would be folders in a path.
    tab.run("location.href = '/chat?user=Ann&room=..'", &[]);
    tab.until("document.title.includes('..')", &[]);
    tab.until("location.pathname + location.search === arguments[0]", &["/chat?room=.."]);
    tab.run("location.reload()", &[]);
    tab.until_shows("log", "You");
    browser.assert_no_errors(&[]);
}

/// An application with the chat at `/chat`, for as long as the runtime is there.
async fn nested_at_chat() -> u16 {
    let chat = chat_server::Server::builder().start();
    let routes = axum::Router::new().nest("/chat", chat.router());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    port
}
