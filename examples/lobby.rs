//! A game lobby with a protocol of its own: tables of eight players, over the hub.
//!
//! A player connects to `/TABLE?PLAYER`. A text of a player is a remark, a binary message is a move,
//! and all players of the table receive both as they were sent, in one order, on every server. Joins
//! and leaves are texts in JSON. The ninth player is closed with code 4100.

#![allow(clippy::print_stdout, reason = "it says where it listens")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chat_broker::{BrokerError, Hub, HubConfig, JoinOptions, MemoryBroker};
use chat_core::{
    Batch, CloseReason, ConnectionId, Deliver, DeliveryOutcome, Event, Frames, FramesBuilder,
    Occupant, RoomId, Topic, User, UserId,
};
use chat_transport::{End, Incoming, Outbox, Session, TransportConfig, accept_tcp};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

const PLACES: u32 = 8;
const TABLE_FULL: u16 = 4100;

/// The first byte of a payload on the bus: what follows it is a text, or the bytes of a move. A chat
/// envelope begins with neither.
const REMARK: u8 = b'r';
const MOVE: u8 = b'm';

/// A member is the outbox of its connection.
#[derive(Clone)]
struct Player(Outbox);

impl Deliver for Player {
    fn deliver(&self, batch: &Batch) -> DeliveryOutcome {
        // Encoded by the first player of this server that gets the batch, for all of them.
        let TableFrames(frames) = batch.shared(TableFrames::encode);
        frames.as_ref().map_or(DeliveryOutcome::Skipped, |frames| self.0.send(frames))
    }

    fn close(&self, reason: CloseReason) {
        self.0.close(reason);
    }

    async fn drained(&self) {
        self.0.drained_to(0).await;
    }
}

/// The frames of a batch.
struct TableFrames(Option<Frames>);

impl TableFrames {
    fn encode(batch: &Batch) -> Self {
        let mut frames = FramesBuilder::new();
        for (event, _position) in batch.events() {
            match event {
                Event::Custom([MOVE, bytes @ ..]) => frames.binary(bytes),
                Event::Custom([REMARK, text @ ..]) => frames.text(&String::from_utf8_lossy(text)),
                Event::Presence(presence) => {
                    let (change, player) = (presence.change.as_str(), presence.user.id);
                    frames.text(&format!(r#"{{"{change}":"{player}"}}"#));
                }
                Event::Gap(_) => frames.text(r#"{"lost":true}"#),
                _ => {}
            }
        }
        Self(frames.finish())
    }
}

#[derive(Clone)]
struct Lobby {
    hub: Hub<Player>,
    next: Arc<AtomicU64>,
}

impl Lobby {
    fn new(hub: Hub<Player>) -> Self {
        Self { hub, next: Arc::default() }
    }

    /// Serves a player until the connection ends.
    async fn play<S>(&self, mut session: Session<S>, table: RoomId, player: UserId)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let topic = Topic::Room(table.clone());
        let id = ConnectionId::new(self.next.fetch_add(1, Ordering::Relaxed));
        let member = Player(session.outbox().clone());
        let occupant = Occupant::of(&User::new(player, None));
        let options = JoinOptions::default().occupant(occupant).max_users(PLACES);
        let joined = session.drive(self.hub.join(&topic, id, member, options)).await;
        let membership = match joined {
            Ok(membership) => membership,
            Err(error) => {
                close(session.outbox(), &error);
                session.finish().await;
                return;
            }
        };
        while let Some(incoming) = session.recv().await {
            let payload = match incoming {
                Incoming::Text(text) => [&[REMARK], text.as_bytes()].concat(),
                Incoming::Binary(bytes) => [&[MOVE], &bytes[..]].concat(),
                _ => continue,
            };
            if let Err(error) = session.drive(self.publish(&table, payload)).await {
                close(session.outbox(), &error);
            }
        }
        // A player who did not close keeps the place for the grace, in which it may connect again.
        if !matches!(session.finish().await, End::ByPeer { .. }) {
            membership.disconnect();
        }
    }

    async fn publish(&self, table: &RoomId, payload: Vec<u8>) -> Result<(), BrokerError> {
        self.hub.publish_payload(table, payload).await?.await?;
        Ok(())
    }
}

fn close(outbox: &Outbox, error: &BrokerError) {
    match error {
        BrokerError::RoomFull { .. } => {
            // The code is one that an application may use.
            let _ = outbox.close_with(TABLE_FULL, "the table is full");
        }
        _ => outbox.close(CloseReason::InternalError),
    }
}

async fn serve(lobby: Lobby, stream: TcpStream, config: Arc<TransportConfig>) {
    let Ok(accepted) = accept_tcp(stream, &[], &config).await else { return };
    let uri = accepted.request.uri();
    // In production: the player of a session or a token.
    let player = UserId::new(uri.query().unwrap_or_default());
    match (RoomId::new(uri.path().trim_matches('/')), player) {
        (Ok(table), Ok(player)) => lobby.play(accepted.session, table, player).await,
        _ => accepted.session.outbox().close(CloseReason::PolicyViolation),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // In production: `RedisBroker::connect(RedisConfig::new(url)).await?`
    let (broker, events) = MemoryBroker::connect();
    let (hub, driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
    tokio::spawn(driver.run());
    let lobby = Lobby::new(hub);

    let port = std::env::var("PORT").map_or(Ok(9002), |port| port.parse())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("listening on ws://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve(lobby.clone(), stream, Arc::default()));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chat_broker::MemoryBus;
    use futures_util::{SinkExt, StreamExt};
    use tokio::io::DuplexStream;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    /// A server of the lobby.
    fn start(bus: &MemoryBus) -> Lobby {
        let (broker, events) = bus.connect();
        let (hub, driver) = Hub::new(Arc::new(broker), events, HubConfig::default());
        tokio::spawn(driver.run());
        Lobby::new(hub)
    }

    /// A player without a socket.
    async fn connect(lobby: &Lobby, player: &str) -> WebSocketStream<DuplexStream> {
        let (client, server) = tokio::io::duplex(4096);
        let session = Session::new(server, Bytes::new(), Arc::default());
        let (lobby, player) = (lobby.clone(), UserId::new(player).unwrap());
        let table = RoomId::new("chess").unwrap();
        tokio::spawn(async move { lobby.play(session, table, player).await });
        WebSocketStream::from_raw_socket(client, Role::Client, None).await
    }

    async fn expect(player: &mut WebSocketStream<DuplexStream>, expected: Message) {
        loop {
            let message = player.next().await.unwrap().unwrap();
            // The players join in any order.
            if !message.is_text() || !message.to_text().unwrap().contains("joined") {
                assert_eq!(message, expected);
                return;
            }
        }
    }

    #[tokio::test]
    async fn moves_and_remarks_arrive_in_one_order_at_all_servers() {
        let bus = MemoryBus::new();
        let (first, second) = (start(&bus), start(&bus));
        let mut ann = connect(&first, "ann").await;
        // A player that receives its own move has joined.
        ann.send(Message::binary(vec![0])).await.unwrap();
        expect(&mut ann, Message::binary(vec![0])).await;
        let mut bob = connect(&second, "bob").await;
        bob.send(Message::binary(vec![0, 0])).await.unwrap();
        for player in [&mut ann, &mut bob] {
            expect(player, Message::binary(vec![0, 0])).await;
        }
        for n in 1..100_u8 {
            ann.send(Message::text(format!(r#"{{"turn":{n}}}"#))).await.unwrap();
            ann.send(Message::binary(vec![n; 3])).await.unwrap();
        }
        for player in [&mut ann, &mut bob] {
            for n in 1..100_u8 {
                expect(player, Message::text(format!(r#"{{"turn":{n}}}"#))).await;
                expect(player, Message::binary(vec![n; 3])).await;
            }
        }
    }

    #[tokio::test]
    async fn ninth_player_is_closed_with_4100() {
        let bus = MemoryBus::new();
        let (first, second) = (start(&bus), start(&bus));
        let mut players = Vec::new();
        for n in 0..PLACES {
            let lobby = if n % 2 == 0 { &first } else { &second };
            let mut player = connect(lobby, &format!("player{n}")).await;
            player.send(Message::binary(vec![7])).await.unwrap();
            expect(&mut player, Message::binary(vec![7])).await;
            players.push(player);
        }
        let mut ninth = connect(&second, "ninth").await;
        let Some(Ok(Message::Close(Some(close)))) = ninth.next().await else { panic!() };
        assert_eq!((u16::from(close.code), close.reason.as_str()), (4100, "the table is full"));

        // A player may have two connections, and takes one place.
        let mut again = connect(&second, "player0").await;
        again.send(Message::binary(vec![8])).await.unwrap();
        expect(&mut again, Message::binary(vec![8])).await;
    }
    #[tokio::test]
    async fn lost_player_keeps_the_place_and_one_that_closes_leaves() {
        let bus = MemoryBus::new();
        let lobby = start(&bus);
        let mut ann = connect(&lobby, "ann").await;
        let (mut bob, mut cat) = (connect(&lobby, "bob").await, connect(&lobby, "cat").await);
        for (n, player) in [&mut ann, &mut bob, &mut cat].into_iter().enumerate() {
            player.send(Message::binary(vec![n as u8])).await.unwrap();
            // All moves so far: the player has joined, and its own is the last.
            while player.next().await.unwrap().unwrap() != Message::binary(vec![n as u8]) {}
        }
        drop(bob);
        cat.close(None).await.unwrap();
        while let Some(Ok(message)) = ann.next().await {
            assert_ne!(message, Message::text(r#"{"left":"bob"}"#));
            if message == Message::text(r#"{"left":"cat"}"#) {
                return;
            }
        }
        panic!("cat did not leave");
    }
}
