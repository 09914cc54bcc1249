//! A pointer to a broker is a broker: servers, hubs and wrappers may share one.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chat_core::{History, Position, Topic};

use crate::broker::{Broker, Status};
use crate::error::BrokerError;
use crate::history::HistoryRead;
use crate::presence::PresenceTracker;
use crate::publish::{PublishOptions, Receipt};
use crate::stats::BrokerStats;
use crate::table::SharedTable;

macro_rules! forward {
    ($pointer:ident) => {
        // A method with a default that was not forwarded would hide what the broker behind it does:
        // a presence that is there, a position that is known.
        #[deny(clippy::missing_trait_methods)]
        #[async_trait]
        impl<B: Broker + ?Sized> Broker for $pointer<B> {
            async fn publish(
                &self,
                topic: &Topic,
                payload: Bytes,
                options: PublishOptions,
            ) -> Result<Receipt, BrokerError> {
                (**self).publish(topic, payload, options).await
            }

            async fn subscribe(&self, topics: &[Topic]) -> Result<(), BrokerError> {
                (**self).subscribe(topics).await
            }

            async fn unsubscribe(&self, topics: &[Topic]) -> Result<(), BrokerError> {
                (**self).unsubscribe(topics).await
            }

            async fn positions(&self, topics: &[Topic]) -> Result<Vec<Position>, BrokerError> {
                (**self).positions(topics).await
            }

            fn known_position(&self, topic: &Topic) -> Option<Position> {
                (**self).known_position(topic)
            }

            async fn history(&self, reads: &[HistoryRead]) -> Result<Vec<History>, BrokerError> {
                (**self).history(reads).await
            }

            fn presence(&self) -> Option<&dyn PresenceTracker> {
                (**self).presence()
            }

            fn table(&self) -> Option<&dyn SharedTable> {
                (**self).table()
            }

            fn status(&self) -> Status {
                (**self).status()
            }

            fn stats(&self) -> BrokerStats {
                (**self).stats()
            }

            async fn close(&self) {
                (**self).close().await;
            }
        }
    };
}

forward!(Arc);
forward!(Box);

#[cfg(test)]
mod tests {
    use chat_core::RoomId;

    use super::*;
    use crate::memory::MemoryBroker;

    /// As a wrapper sees its broker: through the trait alone.
    async fn assert_same(wrapped: impl Broker, broker: &dyn Broker) {
        let topic = Topic::Room(RoomId::new("r").unwrap());
        let kept = PublishOptions::default().retention(chat_core::Retention::default());
        wrapped.publish(&topic, Bytes::new(), kept).await.unwrap().await.unwrap();
        let position = wrapped.known_position(&topic);
        assert_eq!(position.map(|position| position.offset), Some(1));
        assert_eq!(position, broker.known_position(&topic));
        assert!(wrapped.presence().is_some() && wrapped.table().is_some());
        assert_eq!((wrapped.status(), wrapped.stats()), (Status::Ready, broker.stats()));
        wrapped.close().await;
        assert_eq!(broker.status(), Status::Closed);
    }

    #[tokio::test]
    async fn pointers_forward_all_parts() {
        let broker = Arc::new(MemoryBroker::connect().0);
        let shared: Arc<dyn Broker> = Arc::clone(&broker) as _;
        assert_same(Arc::new(shared), &*broker).await;
        let broker = Arc::new(MemoryBroker::connect().0);
        assert_same(Box::new(Arc::clone(&broker)) as Box<dyn Broker>, &*broker).await;
    }
}
