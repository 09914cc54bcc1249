//! nginx, and what its page alone says.

use std::fs;
use std::path::Path;
use std::process::Command;

use chat_transport::testing::WsClient;

use super::instance::{Balancer, Place, Program, command, file, on_ipv6, replaced};
use super::websockets::{self, Crowd};
use super::{Site, request};
use crate::support::{Chat, command as chat_server};

const PAGE: &str = include_str!("../../../../docs/nginx.md");

pub(super) static NGINX: Program = Program {
    name: "nginx",
    package: "nginx-light",
    documented: include_str!("../../../../docs/nginx/nginx.conf"),
    replacements,
    run,
    is_up,
    reload,
    third_server,
    is_error: |line| line.contains("\" 5"),
    websockets_alone: ("location / {", "location = /ws {"),
    timeouts: &["proxy_read_timeout", "proxy_send_timeout"],
};

fn replacements(place: &Place) -> Vec<(&'static str, String)> {
    let at = place.directory.display();
    // Where a body too large for memory would go; the package's place needs root.
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("    {name}_temp_path {at}/{name};\n"))
        .concat();
    vec![
        ("/run/nginx.pid", format!("{at}/nginx.pid")),
        ("/var/log/nginx/", format!("{at}/")),
        ("/etc/ssl/chat/", format!("{at}/")),
        ("http {\n", format!("http {{\n{temporary}")),
        ("listen 80;", format!("listen 127.0.0.1:{};", place.plain)),
        ("listen 443 ssl;", format!("listen 127.0.0.1:{} ssl;", place.tls)),
        ("listen [::]:80;", on_ipv6(format!("listen [::1]:{};", place.plain))),
        ("listen [::]:443 ssl;", on_ipv6(format!("listen [::1]:{} ssl;", place.tls))),
        ("127.0.0.1:8080;", format!("127.0.0.1:{};", place.servers[0])),
        ("127.0.0.1:8081;", format!("127.0.0.1:{};", place.servers[1])),
        ("18080", place.inner[0].to_string()),
        ("18081", place.inner[1].to_string()),
    ]
}

fn third_server(place: &Place, port: u16) -> Vec<(String, String)> {
    let ([_, second, third], [_, server]) = (place.inner, place.servers);
    let below = |line: &dyn Fn(u16, u16) -> String| {
        let former = line(second, server);
        (former.clone(), format!("{former} {}", line(third, port)))
    };
    vec![
        below(&|inner, _| format!("server 127.0.0.1:{inner} max_fails=0;")),
        below(&|inner, _| format!("server 127.0.0.2:{inner} max_fails=0 backup;")),
        below(&|inner, server| format!("{inner} 127.0.0.1:{server};")),
        below(&|inner, _| format!("listen 127.0.0.1:{inner};")),
        below(&|inner, _| format!("listen 127.0.0.2:{inner};")),
    ]
}

fn run(directory: &Path) -> Command {
    let mut command = nginx(directory);
    command.args(["-g", "daemon off;"]);
    command
}

/// It writes its id once its ports are open.
fn is_up(directory: &Path, master: u32) -> bool {
    let id = fs::read_to_string(directory.join("nginx.pid")).unwrap_or_default();
    id.trim() == master.to_string()
}

fn reload(directory: &Path, _: u32) -> Command {
    let mut command = nginx(directory);
    command.args(["-s", "reload"]);
    command
}

fn nginx(directory: &Path) -> Command {
    let mut command = command("nginx");
    command.arg("-c").arg(file(directory)).arg("-e").arg(directory.join("error.log"));
    command
}

/// With the block of docs/nginx.md: nginx removes the path.
#[tokio::test]
async fn chat_may_be_below_a_path() {
    let block = PAGE.split("```nginx\n").find(|block| block.starts_with("location /chat/"));
    let block = block.and_then(|block| block.split("```").next()).expect("the block");
    let (location, refused) =
        block.split_once("    # ... and the rest as in the file.\n}\n").unwrap();
    let url = "https://chat.example/chat";
    let server = Chat::start(chat_server().args(["--port", "0", "--public-url", url]));
    let nginx = Balancer::start_with(&NGINX, [server.port(), server.port()], |configuration| {
        let below = [refused, location].concat();
        replaced(configuration, "location / {\n            proxy_pass http://chat;\n", &below)
    });
    let page = async |path: &str| request(nginx.port(), &format!("GET {path}"), "").await;
    for path in ["/chat/", "/chat/join-room/x", "/chat/join-room/x/"] {
        let (status, _, html) = page(path).await;
        assert!(status == 200 && html.contains("src=\"/chat/web-"), "{path}: {status} {html}");
    }
    assert_eq!(page("/chat/web/app.js").await.0, 200);
    let (_, _, body) = request(nginx.port(), "POST /chat/create-room", "").await;
    assert!(body.contains(r#""url":"https://chat.example/chat/join-room/"#), "{body}");
    WsClient::connect(&format!("ws://127.0.0.1:{}/chat/ws", nginx.port())).await;
    for path in ["/chat/healthz", "/chat/readyz", "/chat/metrics", "/chat/api/bans"] {
        let (status, _, body) = page(path).await;
        // A server without a key for backends answers 404 as well, with this code.
        assert!(status == 404 && !body.contains("not_found"), "{path}: {status} {body}");
    }
}

#[tokio::test]
async fn server_is_taken_out_and_no_client_is_refused() {
    let mut site = Site::start(&NGINX).await;
    let (on_first, on_second, second) = site.one_on_each().await;
    // Both lines of the server.
    let port = format!(":{} max_fails=0", site.balancer.inner_port());
    site.balancer.reconfigure(&port, &port.replace(' ', " down "));
    site.until_all_reach(&second).await;
    site.first_ends_in_order(on_first, on_second, &second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reload_disconnects_no_client() {
    websockets::reload_disconnects_no_client(&NGINX).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_outage_excludes_no_client() {
    let site = Site::start(&NGINX).await;
    site.redis.pause();
    for server in [&site.first, &site.second] {
        server.until_status("/readyz", 503).await;
    }
    Crowd::connect(site.balancer.port()).online("").await;
    assert_eq!(site.balancer.errors_answered(), Vec::<String>::new());
    site.redis.resume();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frozen_server_is_passed_over() {
    websockets::frozen_server_is_passed_over(&NGINX).await;
}
