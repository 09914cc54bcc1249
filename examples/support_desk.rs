//! A support desk in a shop: customers and staff are known by a session cookie, and talk in a room
//! for each order. The shop speaks in the rooms, reads them, checks what is said, disconnects who
//! logs out, and archives a room.
//!
//! Rooms are in the Redis at `REDIS_URL`, by default in memory; the archive is the SQLite database
//! `ARCHIVE_FILE`, by default in memory, too.

use std::collections::HashMap;
use std::env;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse};
use axum::routing::{get, post};
use axum::{Json, Router};
use chat_broker::{RedisBroker, RedisConfig};
use chat_core::{Capabilities, Grants, HistoryRange, Position, RoomId, UserId, UserName};
use chat_server::{
    AuthError, Authenticator, Credentials, Draft, Error, HookError, Hooks, Identity,
    OutgoingMessage, RoomHandle, RoomItem, Server, ServerConfig,
};
use futures_util::StreamExt;
use rusqlite::{Connection, OptionalExtension};
use serde_json::{Value, json};
use tokio::task::block_in_place;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Who may log in: the id, the name, the rooms. A real shop asks its database, and for a password.
const ACCOUNTS: [(&str, &str, &str); 2] = [("ann", "Ann", "order-7"), ("sam", "Sam", "order-*")];

/// The room that is archived. A real shop asks its database, and follows the room of each new order.
const ARCHIVED: &str = "order-7";

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

/// Messages in SQLite. Each row has a position, and the archive of a room continues from that of the
/// room's latest row: a message and the saved position cannot disagree. A row without a text is a gap:
/// messages between the row before it and this position are missing.
struct Archive(Connection);

impl Archive {
    fn open(file: &str) -> rusqlite::Result<Self> {
        let database = Connection::open(file)?;
        database.execute_batch(
            "CREATE TABLE IF NOT EXISTS archive (
                id INTEGER PRIMARY KEY, room TEXT NOT NULL, position TEXT NOT NULL,
                at INTEGER, user TEXT, text TEXT, data TEXT);
            CREATE INDEX IF NOT EXISTS archive_by_room ON archive (room);",
        )?;
        Ok(Self(database))
    }

    /// Archives a room until the server shuts down.
    async fn follow(mut self, room: RoomHandle) -> Result<(), AnyError> {
        let saved = self.position(room.id())?;
        // What has arrived is one transaction: more than one message only while they arrive faster
        // than the disk stores them.
        let mut batches = room.follow(Some(saved)).ready_chunks(256);
        while let Some(batch) = batches.next().await {
            block_in_place(|| self.store(room.id(), &batch))?;
        }
        Ok(())
    }

    /// Where the archive of the room continues: at first, before the room's first message.
    fn position(&self, room: &RoomId) -> Result<Position, AnyError> {
        let latest = "SELECT position FROM archive WHERE room = ? ORDER BY id DESC LIMIT 1";
        let saved: Option<String> =
            self.0.query_row(latest, [room.as_str()], |row| row.get(0)).optional()?;
        Ok(saved.map_or(Ok(Position::default()), |position| position.parse())?)
    }

    fn store(&mut self, room: &RoomId, batch: &[RoomItem]) -> rusqlite::Result<()> {
        let transaction = self.0.transaction()?;
        for item in batch {
            // The table refuses an item without a position: it is of a room without history.
            let (room, position) = (room.as_str(), item.position().map(|at| at.to_string()));
            match item {
                RoomItem::Message { message, .. } => {
                    let (at, user, text) = (message.at as i64, &*message.user.id, &*message.text);
                    let data = message.data.as_deref().map(|data| data.get());
                    transaction.execute(
                        "INSERT INTO archive (room, position, at, user, text, data)
                         VALUES (?, ?, ?, ?, ?, ?)",
                        (room, position, at, user, text, data),
                    )?
                }
                _ => transaction.execute(
                    "INSERT INTO archive (room, position) VALUES (?, ?)",
                    (room, position),
                )?,
            };
        }
        transaction.commit()
    }
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
async fn main() -> Result<(), AnyError> {
    let sessions = Sessions::default();
    let config = ServerConfig::default().allow_host(vec!["shop.example".to_owned()]);
    let mut chat =
        Server::builder().config(config).authenticator(sessions.clone()).hooks(HouseRules);
    if let Ok(url) = env::var("REDIS_URL") {
        let (broker, events) = RedisBroker::connect(RedisConfig::new(url)).await?;
        chat = chat.broker(broker, events);
    }
    let chat = chat.start();

    let archive = Archive::open(&env::var("ARCHIVE_FILE").unwrap_or(":memory:".to_owned()))?;
    let archiving = archive.follow(chat.room(&RoomId::new(ARCHIVED)?));
    tokio::spawn(async {
        if let Err(error) = archiving.await {
            eprintln!("the archive has ended, and continues after a restart: {error}");
        }
    });

    // `/orders` is for the staff and the payment provider alone: a real shop checks that.
    let routes = Router::new()
        .route("/login/{user}", post(login))
        .route("/logout", post(logout))
        .route("/orders/{order}", get(read))
        .route("/orders/{order}/paid", post(paid))
        .with_state(Desk { chat: chat.clone(), sessions })
        // The WebSocket alone, at `/chat/ws`: the pages are those of the shop.
        .nest("/chat", chat.websocket_router());
    let port = env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(3000);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, routes).await?;
    Ok(())
}
