//! The API for backends.

mod batch;
mod docs;
mod export;
mod fleet;
mod keys;
mod messages;
mod moderation;
mod rooms;
mod tokens;
mod traffic;

use std::path::PathBuf;

use chat_server::{ApiKey, Secret};
use serde_json::Value;

use super::backend::{KEY, member, pair, request, user};
use crate::support::{Chat, command};

/// The key "shop" of a configuration file.
const SHOP: &str = "ck_shop_0123456789abcdef";

/// A server in whose file the key "shop" has these further lines.
pub(crate) struct WithFile {
    pub(crate) server: Chat,
    file: PathBuf,
}

impl Drop for WithFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

pub(crate) fn server_with_key(lines: &str, args: &[&str]) -> WithFile {
    let hash = ApiKey::new("shop", &Secret::new(SHOP)).unwrap().hash();
    let text = format!("[[api_keys]]\nname = \"shop\"\nhash = \"{hash}\"\n{lines}\n");
    static FILES: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = FILES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let name = format!("chat-keys-{}-{number}.toml", std::process::id());
    let file = std::env::temp_dir().join(name);
    std::fs::write(&file, text).unwrap();
    let mut command = command();
    command.env("API_KEY", KEY).args(["--port", "0", "--config"]).arg(&file).args(args);
    WithFile { server: Chat::start(&mut command), file }
}

fn server(args: &[&str]) -> Chat {
    Chat::start(command().env("API_KEY", KEY).args(["--port", "0"]).args(args))
}

/// Status, head and body of the answer to a call.
async fn call_with(
    port: u16,
    key: &str,
    headers: &str,
    call: &str,
    body: Option<&Value>,
) -> (u16, String, Value) {
    let body = body.map(Value::to_string).unwrap_or_default();
    let line = call.replacen(' ', " /api", 1);
    let (status, head, body) = request(port, key, headers, &line, &body).await;
    let body = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{call}: {body}"));
    (status, head, body)
}

async fn call(server: &Chat, key: &str, call: &str, body: Option<&Value>) -> (u16, Value) {
    let (status, _, body) = call_with(server.port(), key, "", call, body).await;
    (status, body)
}

/// The answer to a call with the key of all scopes, which succeeds.
async fn post(server: &Chat, path: &str, body: Value) -> Value {
    let (status, answer) = call(server, KEY, &format!("POST {path}"), Some(&body)).await;
    assert_eq!(status, 200, "{path} {body}: {answer}");
    answer
}

async fn get(server: &Chat, path: &str) -> Value {
    let (status, answer) = call(server, KEY, &format!("GET {path}"), None).await;
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

/// Status and code of a call with the key of all scopes, which is refused.
async fn refused(server: &Chat, of: &str, body: Option<Value>) -> (u16, String) {
    let (status, answer) = call(server, KEY, of, body.as_ref()).await;
    let code = answer["code"].as_str().unwrap_or_else(|| panic!("{of}: {answer}"));
    (status, code.to_owned())
}
