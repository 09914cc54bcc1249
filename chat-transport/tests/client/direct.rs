//! Direct messages that a server could not deliver.

use chat_transport::client::Event;
use serde_json::json;

use crate::mock::{joined, next_of_room, quick};

/// The frame reaches every connection of the user, also before the answer to the message.
#[tokio::test]
async fn undelivered_message_is_reported_to_its_own_connection() {
    let (_mock, mut peer, client, mut events) = joined(0, quick()).await;
    let serve = async {
        let direct = peer.recv("direct").await;
        let undelivered = |session: &str, to: &str| json!({"type":"undelivered","session":session,"id":direct["id"],"to":to});
        peer.send(undelivered("n-2", "of another connection")).await;
        peer.send(undelivered("n-1", "bob")).await;
        peer.send(json!({"type":"ok","id":direct["id"],"delivered":1})).await;
    };
    let (delivered, ()) = tokio::join!(client.direct("bob", "psst", None), serve);
    assert_eq!(delivered, Ok(1));
    let Event::Undelivered { to } = next_of_room(&mut events).await else { panic!("no event") };
    assert_eq!(to, "bob");
}
