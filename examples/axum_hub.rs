//! The hub inside an axum application with its own routes and its own protocol: every line that a
//! client writes to `/live/ROOM` is sent to all clients of that room, on every server. Each line
//! begins with its position, `EPOCH.OFFSET`. A client that was offline connects to
//! `/live/ROOM?since=EPOCH.OFFSET`, and gets the lines that it missed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use chat_broker::{Hub, HubConfig, JoinOptions, MemoryBroker};
use chat_core::{
    Batch, CloseReason, ConnectionId, Deliver, DeliveryOutcome, Event, Frames, Position, RoomId,
    Topic, User, UserId,
};
use chat_transport::{Incoming, Outbox, Session, TransportConfig, handshake};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

/// A member is the outbox of its connection.
#[derive(Clone)]
struct Member(Outbox);

impl Deliver for Member {
    fn deliver(&self, batch: &Batch) -> DeliveryOutcome {
        for (event, position) in batch.events() {
            let at = position.map_or_else(String::new, |position| position.to_string());
            let line = match event {
                Event::Message(message) => format!("{at} {}", message.text),
                Event::Gap(_) => "some lines are lost".to_owned(),
                _ => continue,
            };
            let outcome = self.0.send(&Frames::text(&line));
            if outcome != DeliveryOutcome::Queued {
                return outcome;
            }
        }
        DeliveryOutcome::Queued
    }

    fn close(&self, reason: CloseReason) {
        self.0.close(reason);
    }

    // What the client missed may be more than its outbox holds.
    async fn drained(&self) {
        self.0.drained_to(0).await;
    }
}

/// The position in `since=EPOCH.OFFSET`.
fn since(query: &str) -> Option<Position> {
    query.strip_prefix("since=")?.parse().ok()
}

#[derive(Clone)]
struct App {
    hub: Hub<Member>,
    transport: Arc<TransportConfig>,
    next: Arc<AtomicU64>,
}

async fn live(
    State(app): State<App>,
    Path(room): Path<String>,
    RawQuery(query): RawQuery,
    mut request: Request,
) -> Response {
    let Ok(room) = RoomId::new(room) else { return StatusCode::BAD_REQUEST.into_response() };
    let options = JoinOptions::default().since(query.as_deref().and_then(since));
    let answer = match handshake::respond(&request, &[]) {
        Ok(answer) => answer,
        Err(refused) => return refused.response().map(axum::body::Body::from).into_response(),
    };
    if let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() {
        tokio::spawn(async move {
            if let Ok(stream) = upgrade.await {
                talk(app, room, options, stream).await;
            }
        });
    }
    answer.map(|()| axum::body::Body::empty())
}

async fn talk(app: App, room: RoomId, options: JoinOptions, stream: Upgraded) {
    let mut session = Session::new(TokioIo::new(stream), Bytes::new(), app.transport);
    let id = ConnectionId::new(app.next.fetch_add(1, Ordering::Relaxed));
    let member = Member(session.outbox().clone());
    let topic = Topic::Room(room.clone());
    let Ok(_membership) = session.drive(app.hub.join(&topic, id, member, options)).await else {
        session.outbox().close(CloseReason::InternalError);
        session.finish().await;
        return;
    };
    let Ok(user) = UserId::new(format!("guest-{}", id.get())) else { return };
    let user = User::new(user, None);
    while let Some(incoming) = session.recv().await {
        let Incoming::Text(text) = incoming else { continue };
        let published = app.hub.publish(&room, user.as_sender(), &*text);
        if session.drive(published).await.is_err() {
            session.outbox().close(CloseReason::InternalError);
        }
    }
    session.finish().await;
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let (broker, events) = MemoryBroker::connect();
    let (hub, driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
    tokio::spawn(driver.run());

    let app = App { hub, transport: Arc::default(), next: Arc::default() };
    let routes = Router::new()
        .route("/", get(|| async { "an application of your own\n" }))
        .route("/live/{room}", get(live))
        .with_state(app);
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(3000);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, routes).await
}
