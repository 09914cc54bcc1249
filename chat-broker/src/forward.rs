//! A pointer to a broker is a broker: servers, hubs and wrappers may share one.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chat_core::{History, Position, Topic};
use futures_util::future::BoxFuture;

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
            // What `async fn` stands for, but for a future of its own on the heap: each message
            // that a client sends is published, through as many pointers as an application has
            // wrapped.
            fn publish<'life0, 'life1, 'async_trait>(
                &'life0 self,
                topic: &'life1 Topic,
                payload: Bytes,
                options: PublishOptions,
            ) -> BoxFuture<'async_trait, Result<Receipt, BrokerError>>
            where
                'life0: 'async_trait,
                'life1: 'async_trait,
                Self: 'async_trait,
            {
                (**self).publish(topic, payload, options)
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

            async fn subscribers(&self, topics: &[Topic]) -> Result<Vec<u32>, BrokerError> {
                (**self).subscribers(topics).await
            }

            fn presence(&self) -> Option<&dyn PresenceTracker> {
                (**self).presence()
            }

            fn table(&self) -> Option<&dyn SharedTable> {
                (**self).table()
            }

            fn node(&self) -> Option<&str> {
                (**self).node()
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
        let future_of =
            |broker: &dyn Broker| size_of_val(&*broker.publish(&topic, Bytes::new(), kept.clone()));
        assert_eq!(future_of(&wrapped), future_of(broker), "the future is that of the broker");
        wrapped.publish(&topic, Bytes::new(), kept).await.unwrap().await.unwrap();
        let position = wrapped.known_position(&topic);
        assert_eq!(position.map(|position| position.offset), Some(1));
        assert_eq!(position, broker.known_position(&topic));
        let counts = wrapped.subscribers(std::slice::from_ref(&topic)).await;
        assert_eq!(counts.unwrap(), [0]);
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
