//! Who gets in with which token, and what they may do.

mod capabilities;
mod issuer;
mod jwks;
mod keys;
mod libraries;
mod reload;
mod renewal;
mod tokens;

use std::collections::BTreeMap;
use std::time::Duration;

use chat_core::UserId;
use chat_server::{JwtSigner, TokenClaims};
use chat_transport::testing::WsClient;
use serde_json::Value;

use crate::support::{Chat, ask, command};

pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NATIVE: (&str, &str) = ("Sec-WebSocket-Protocol", "chat.v1");

pub(crate) fn server(args: &[&str]) -> Chat {
    Chat::start(command().args(["--port", "0"]).env("JWT_SECRET", SECRET).args(args))
}

fn claims(user: &str) -> TokenClaims {
    TokenClaims::new(&UserId::new(user).unwrap(), Duration::from_secs(600))
}

fn sign(claims: &TokenClaims) -> String {
    JwtSigner::with_secret(SECRET.as_bytes()).unwrap().sign(claims).unwrap()
}

/// A token with these claims, whatever they are.
pub(crate) fn signed(claims: &Value) -> String {
    JwtSigner::with_secret(SECRET.as_bytes()).unwrap().sign(claims).unwrap()
}

fn token(user: &str) -> String {
    sign(&claims(user))
}

pub(crate) fn granting(user: &str, rules: &[(&str, &[&str])]) -> String {
    let rule = |(pattern, names): &(&str, &[&str])| {
        ((*pattern).to_owned(), names.iter().map(ToString::to_string).collect())
    };
    let mut claims = claims(user);
    claims.rooms = Some(rules.iter().map(rule).collect::<BTreeMap<_, Vec<_>>>());
    sign(&claims)
}

pub(crate) async fn native(server: &Chat, token: &str) -> WsClient {
    WsClient::connect_with(&server.ws(&format!("/ws?token={token}")), &[NATIVE]).await
}

async fn welcome(client: &mut WsClient, frame: Value) -> Value {
    ask(client, "welcome", frame).await
}

async fn refusal(client: &mut WsClient, frame: Value) -> String {
    ask(client, "error", frame).await["code"].as_str().unwrap().to_owned()
}
