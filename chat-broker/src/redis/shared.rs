//! State that the connections of a broker share: settings, names, scripts, and what is known of
//! Redis.

use std::sync::Arc;

use parking_lot::RwLock;
use redis::aio::ConnectionLike;
use redis::{Client, RedisResult};

use super::config::RedisConfig;
use super::health::Health;
use super::health::capacity::{Capacity, Eviction};
use super::health::damage::Damage;
use super::health::refusals::Refusals;
use super::names::{Names, new_node};
use super::scripts::Scripts;
use super::stats::Counters;
use crate::error::BrokerError;

/// The state that the connections of a broker share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: RedisConfig,
    /// Opens connections, with the certificates in effect.
    client: RwLock<Client>,
    /// The id of this node.
    pub(super) node: String,
    pub(super) names: Names,
    pub(super) scripts: Scripts,
    pub(super) health: Arc<Health>,
    pub(super) counters: Arc<Counters>,
    pub(super) eviction: Eviction,
    pub(super) capacity: Capacity,
    pub(super) refusals: Refusals,
    pub(super) damage: Damage,
}

impl Shared {
    pub(super) fn new(config: RedisConfig) -> Result<Self, BrokerError> {
        let client = config.verifying_client()?;
        let names = Names::new(&config.prefix, database_of(&client));
        let (scripts, health) = (Scripts::new(), Health::new());
        let (counters, eviction) = (Arc::default(), Eviction::default());
        let (capacity, damage, refusals) = Default::default();
        Ok(Self {
            config,
            client: RwLock::new(client),
            node: new_node(),
            names,
            scripts,
            health,
            counters,
            eviction,
            capacity,
            damage,
            refusals,
        })
    }

    /// What opens the next connection.
    pub(super) fn client(&self) -> Client {
        self.client.read().clone()
    }

    /// Opens connections with the certificates of `config` from now on.
    pub(super) fn replace_certificates(&self, config: &RedisConfig) -> Result<(), BrokerError> {
        let client = self.config.clone().certificates_of(config).verifying_client()?;
        *self.client.write() = client;
        Ok(())
    }

    /// The number of the database that each connection selects.
    pub(super) fn database(&self) -> i64 {
        database_of(&self.client())
    }

    /// Stores all scripts in Redis.
    pub(super) async fn load_scripts(
        &self,
        connection: &mut impl ConnectionLike,
    ) -> RedisResult<()> {
        let outcome = self.scripts.load(connection).await;
        self.refusals.count_error("SCRIPT LOAD", &outcome);
        outcome
    }
}

fn database_of(client: &Client) -> i64 {
    client.get_connection_info().redis_settings().db()
}
