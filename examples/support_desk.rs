//! A support desk in a shop: customers and staff are known by a session cookie, and talk in a room
//! for each order. The shop speaks in the rooms, reads them, checks what is said, and disconnects who
//! logs out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse};
use axum::routing::{get, post};
use axum::{Json, Router};
use chat_core::{Capabilities, Grants, HistoryRange, RoomId, UserId, UserName};
use chat_server::{
    AuthError, Authenticator, Credentials, Draft, Error, HookError, Hooks, Identity,
    OutgoingMessage, Server, ServerConfig,
};
use serde_json::{Value, json};

/// Who may log in: the id, the name, the rooms. A real shop asks its database, and for a password.
const ACCOUNTS: [(&str, &str, &str); 2] = [("ann", "Ann", "order-7"), ("sam", "Sam", "order-*")];

/// The sessions of the shop: the identity of a user by the value of the cookie.
#[derive(Debug, Clone, Default)]
struct Sessions(Arc<Mutex<HashMap<String, Identity>>>);

#[async_trait]
impl Authenticator for Sessions {
    async fn authenticate(&self, client: &Credentials<'_>) -> Result<Identity, AuthError> {
        let session = client.headers.and_then(session_cookie);
        let identity = session.and_then(|session| self.all().get(&session).cloned());
        identity.ok_or_else(|| AuthError::invalid("log in to the shop first"))
    }
}

impl Sessions {
    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<String, Identity>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The value of the cookie `session`.
fn session_cookie(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get(header::COOKIE)?.to_str().ok()?.split("; ");
    cookies.filter_map(|cookie| cookie.strip_prefix("session=")).next().map(str::to_owned)
}

/// Rejects advertising, and hides numbers of payment cards. A real shop asks its moderation service.
#[derive(Debug)]
struct HouseRules;

#[async_trait]
impl Hooks for HouseRules {
    async fn before_send(&self, _room: &RoomId, draft: &mut Draft) -> Result<(), HookError> {
        if draft.text().contains("casino") {
            return Err(HookError::denied("No advertising here."));
        }
        if is_card_number(draft.text()) {
            draft.set_text("(a card number)");
        }
        Ok(())
    }
}

fn is_card_number(text: &str) -> bool {
    text.chars().filter(char::is_ascii_digit).count() == 16
}

#[derive(Clone)]
struct Desk {
    chat: Server,
    sessions: Sessions,
}

/// The shop speaks in the room of an order. With the key, a request that is repeated within five
/// minutes is published once.
async fn paid(State(desk): State<Desk>, Path(order): Path<RoomId>) -> Result<(), Error> {
    let paid = OutgoingMessage::new("Your order is paid.").data(json!({"paid": true})).key("paid");
    desk.chat.room(&order).send(paid).await?;
    Ok(())
}

/// Who is in the room of an order, on all servers, and what was said.
async fn read(State(desk): State<Desk>, Path(order): Path<RoomId>) -> Result<Json<Value>, Error> {
    let room = desk.chat.room(&order);
    let (members, latest) = (room.members().await?, room.history(HistoryRange::Latest, 20).await?);
    Ok(Json(json!({"members": members.users, "messages": latest.messages})))
}

async fn login(State(desk): State<Desk>, Path(user): Path<UserId>) -> impl IntoResponse {
    let account = ACCOUNTS.iter().find(|(id, ..)| *id == user.as_str());
    let (_, name, rooms) = account.ok_or(StatusCode::UNAUTHORIZED)?;
    let session = new_session()?;
    let identity = Identity::new(user)
        .name(UserName::new(name).ok())
        .grants(Grants::new([((*rooms).into(), Capabilities::member())]));
    desk.sessions.all().insert(session.clone(), identity);
    let cookie = format!("session={session}; Path=/; HttpOnly; SameSite=Lax");
    Ok::<_, StatusCode>(AppendHeaders([(header::SET_COOKIE, cookie)]))
}

/// Ends the session, and then the connections, which could connect again before.
async fn logout(State(desk): State<Desk>, headers: HeaderMap) -> Result<(), Error> {
    let session = session_cookie(&headers);
    let ended = session.and_then(|session| desk.sessions.all().remove(&session));
    if let Some(Identity { user, .. }) = ended {
        desk.chat.user(&user).disconnect(Some("logged out")).await?;
    }
    Ok(())
}

/// 128 random bits.
fn new_session() -> Result<String, StatusCode> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sessions = Sessions::default();
    let config = ServerConfig::default().allow_host(vec!["shop.example".to_owned()]);
    let chat =
        Server::builder().config(config).authenticator(sessions.clone()).hooks(HouseRules).start();

    // `/orders` is for the staff and the payment provider alone: a real shop checks that.
    let routes = Router::new()
        .route("/login/{user}", post(login))
        .route("/logout", post(logout))
        .route("/orders/{order}", get(read))
        .route("/orders/{order}/paid", post(paid))
        .with_state(Desk { chat: chat.clone(), sessions })
        // The WebSocket alone, at `/chat/ws`: the pages are those of the shop.
        .nest("/chat", chat.websocket_router());
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(3000);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, routes).await?;
    Ok(())
}
