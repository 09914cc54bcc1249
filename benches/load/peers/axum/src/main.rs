//! What most people write in Rust: axum's WebSocket, a tokio broadcast channel for each room
//! and tasks to copy from it, Redis Pub/Sub; clients of the dialect `topics`. PORT, REDIS_URL.

use std::collections::HashMap;
use std::env;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::{Router, response::Response, routing::get};
use futures_util::{SinkExt, StreamExt};
use redis::AsyncCommands;
use redis::aio::{MultiplexedConnection, PubSubSink, PubSubStream};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Frame {
    #[serde(rename = "SUBSCRIBE")]
    Subscribe { room: String },
    #[serde(rename = "UNSUBSCRIBE")]
    Unsubscribe { room: String },
    #[serde(rename = "sendMessage", rename_all = "camelCase")]
    Send { room_id: String, message: String },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sent {
    r#type: String,
    room_id: String,
    message: String,
}

struct App {
    rooms: Mutex<HashMap<String, broadcast::Sender<String>>>,
    publish: MultiplexedConnection,
    subscribe: mpsc::UnboundedSender<String>,
}

#[tokio::main]
async fn main() {
    let port: u16 = env::var("PORT").unwrap().parse().unwrap();
    let redis = redis::Client::open(env::var("REDIS_URL").unwrap()).unwrap();
    let publish = redis.get_multiplexed_async_connection().await.unwrap();
    let (sink, stream) = redis.get_async_pubsub().await.unwrap().split();
    let (subscribe, rooms) = mpsc::unbounded_channel();
    let app = Arc::new(App { rooms: Mutex::default(), publish, subscribe });
    tokio::spawn(subscriptions(sink, rooms));
    tokio::spawn(publications(stream, Arc::clone(&app)));

    let router = Router::new().route("/ws", get(upgrade)).with_state(app);
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(([127, 0, 0, 1], port).into()).unwrap();
    axum::serve(socket.listen(4096).unwrap(), router).await.unwrap();
}

async fn subscriptions(mut sink: PubSubSink, mut rooms: mpsc::UnboundedReceiver<String>) {
    while let Some(room) = rooms.recv().await {
        sink.subscribe(&room).await.unwrap();
    }
}

async fn publications(mut stream: PubSubStream, app: Arc<App>) {
    while let Some(publication) = stream.next().await {
        let Ok(text) = publication.get_payload::<String>() else { continue };
        let Ok(sent) = serde_json::from_str::<Sent>(&text) else { continue };
        if let Some(room) = app.rooms.lock().unwrap().get(publication.get_channel_name()) {
            let _ = room.send(serde_json::to_string(&sent).unwrap());
        }
    }
}

impl App {
    fn join(&self, room: &str) -> broadcast::Receiver<String> {
        let mut rooms = self.rooms.lock().unwrap();
        if let Some(sender) = rooms.get(room) {
            return sender.subscribe();
        }
        let (sender, receiver) = broadcast::channel(1024);
        rooms.insert(room.to_owned(), sender);
        let _ = self.subscribe.send(room.to_owned());
        receiver
    }
}

async fn upgrade(ws: WebSocketUpgrade, State(app): State<Arc<App>>) -> Response {
    ws.on_upgrade(move |socket| client(socket, app))
}

async fn client(socket: WebSocket, app: Arc<App>) {
    let (mut sink, mut stream) = socket.split();
    let (out, mut outgoing) = mpsc::channel::<String>(64);
    let writer = tokio::spawn(async move {
        while let Some(text) = outgoing.recv().await {
            if sink.send(Message::Text(text.into())).await.is_err() {
                break;
            }
        }
    });
    let mut joined: HashMap<String, JoinHandle<()>> = HashMap::new();
    while let Some(Ok(message)) = stream.next().await {
        let Message::Text(text) = message else { continue };
        match serde_json::from_str(&text) {
            Ok(Frame::Subscribe { room }) => {
                let copying = tokio::spawn(copy(app.join(&room), out.clone()));
                joined.insert(room, copying);
            }
            Ok(Frame::Unsubscribe { room }) => {
                if let Some(copying) = joined.remove(&room) {
                    copying.abort();
                }
            }
            Ok(Frame::Send { room_id, message }) => {
                let r#type = "sendMessage".to_owned();
                let sent = Sent { r#type, room_id: room_id.clone(), message };
                let text = serde_json::to_string(&sent).unwrap();
                let _: redis::RedisResult<()> = app.publish.clone().publish(room_id, text).await;
            }
            Err(_) => {}
        }
    }
    for copying in joined.into_values() {
        copying.abort();
    }
    writer.abort();
}

async fn copy(mut room: broadcast::Receiver<String>, out: mpsc::Sender<String>) {
    loop {
        let text = match room.recv().await {
            Ok(text) => text,
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => break,
        };
        if out.send(text).await.is_err() {
            break;
        }
    }
}
