//! Settings of a server, for those who embed it.

use std::time::Duration;

use chat_broker::HubConfig;
use chat_core::reply::Limits;
use chat_transport::TransportConfig;

/// Settings of a [`Server`](crate::Server). The defaults suit a public chat.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Frames, outboxes and heartbeats of the connections.
    pub transport: TransportConfig,
    /// Rooms: their history, presence, lingering.
    pub hub: HubConfig,
    /// Longest text of a message, in bytes of UTF-8. Default 32,768. A longer one is
    /// refused with `message_too_long`.
    pub max_message_bytes: usize,
    /// Rooms that one connection may be in. Default 128. Each costs a place in the room
    /// and, on the first member of this server, a subscription.
    pub max_rooms: usize,
    /// Sends of one connection that may be unanswered before its socket is read no
    /// further. Default 64.
    pub max_in_flight: usize,
    /// How many members a frame lists. Default 200; `count` tells the rest.
    pub max_listed_members: usize,
    /// How long a shutdown waits for clients to take what is queued for them. Default 10 s.
    pub drain_timeout: Duration,
    /// What comes before `/join-room/…` in the link that `POST /create-room` gives.
    /// Default: `http://` and the request's `Host`.
    pub public_url: Option<String>,
    /// Origins of web pages, such as `https://app.example`, that may connect, create rooms
    /// and import the modules, besides those on the host that the server is asked for by.
    /// `null` stands for pages without an origin. Default: none.
    pub allow_origin: Vec<String>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            transport: TransportConfig::default(),
            hub: HubConfig::default(),
            max_message_bytes: 32_768,
            max_rooms: 128,
            max_in_flight: 64,
            max_listed_members: 200,
            drain_timeout: Duration::from_secs(10),
            public_url: None,
            allow_origin: Vec::new(),
        }
    }
}

macro_rules! setters {
    ($($name:ident: $type:ty),* $(,)?) => {
        impl ServerConfig {
            $(
                #[doc = concat!("Sets [`", stringify!($name), "`](Self::", stringify!($name), ").")]
                #[must_use]
                pub fn $name(mut self, $name: $type) -> Self {
                    self.$name = $name;
                    self
                }
            )*
        }
    };
}

setters! {
    transport: TransportConfig,
    hub: HubConfig,
    max_message_bytes: usize,
    max_rooms: usize,
    max_in_flight: usize,
    max_listed_members: usize,
    drain_timeout: Duration,
    public_url: Option<String>,
    allow_origin: Vec<String>,
}

impl ServerConfig {
    /// What `welcome` tells a client.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            message_bytes: self.max_message_bytes,
            frame_bytes: self.transport.max_frame_bytes,
            rooms: self.max_rooms,
            in_flight: self.max_in_flight,
        }
    }
}
