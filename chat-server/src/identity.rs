//! Who a connection belongs to, without authentication.

use std::sync::OnceLock;

use chat_broker::{Broker, BrokerError};
use chat_core::UserId;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use ring::hmac;

/// Letters and digits that are hard to mistake for one another.
const ALPHABET: &[u8; 32] = b"23456789abcdefghijkmnpqrstuvwxyz";

/// `len` random characters of 5 bits each.
pub(crate) fn random_id(len: usize) -> String {
    let mut bytes = vec![0; len];
    // The system's source fails only where it does not exist; an id of zeros would then
    // collide and be noticed at once, which beats a panic per request.
    if let Err(error) = getrandom::fill(&mut bytes) {
        tracing::error!(%error, "the system gives no random numbers");
    }
    bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect()
}

/// Signs user ids with the secret that all servers of one broker share, so that a client
/// can be the same user again on any of them; with one of its own on a broker without a shared table.
#[derive(Debug, Default)]
pub(crate) struct Resume {
    secret: OnceLock<[u8; 32]>,
}

impl Resume {
    /// What `welcome` hands over: the id in clear, and its HMAC-SHA256 (RFC 2104) in hex.
    pub(crate) async fn issue(
        &self,
        broker: &dyn Broker,
        id: &UserId,
    ) -> Result<String, BrokerError> {
        let tag = hmac::sign(&self.key(broker).await?, signed(id).as_bytes());
        Ok(format!("{}.{id}", HEXLOWER.encode(tag.as_ref())))
    }

    /// The id that a client's `resume` proves; `None` if it proves nothing.
    pub(crate) async fn verify(
        &self,
        broker: &dyn Broker,
        resume: &str,
    ) -> Result<Option<UserId>, BrokerError> {
        let Some((hex, id)) = resume.split_once('.') else { return Ok(None) };
        let tag = HEXLOWER_PERMISSIVE.decode(hex.as_bytes());
        let (Ok(tag), Ok(id)) = (tag, UserId::new(id)) else { return Ok(None) };
        let key = self.key(broker).await?;
        let genuine = hmac::verify(&key, signed(&id).as_bytes(), &tag).is_ok();
        Ok(genuine.then_some(id))
    }

    async fn key(&self, broker: &dyn Broker) -> Result<hmac::Key, BrokerError> {
        let secret = match self.secret.get() {
            Some(secret) => secret,
            None => {
                // Side by side: all attempts get the same bytes, or fail after one deadline.
                let secret = match broker.table() {
                    Some(table) => table.secret().await?,
                    None => own_secret()?,
                };
                self.secret.get_or_init(|| secret)
            }
        };
        Ok(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }
}

/// The text whose HMAC proves an id: no other use of the secret begins like this.
fn signed(id: &UserId) -> String {
    format!("chat resume\0{id}")
}

/// For a broker whose servers share no table: it proves ids to this process alone.
fn own_secret() -> Result<[u8; 32], BrokerError> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(BrokerError::unavailable)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use chat_broker::{MemoryBroker, MemoryBus};

    use super::*;

    #[test]
    fn random_ids_differ() {
        assert_eq!(random_id(20).len(), 20);
        assert_ne!(random_id(20), random_id(20));
    }

    /// Servers of different releases on one Redis accept the secrets of one another.
    #[tokio::test]
    async fn resume_secret_is_an_hmac_in_hex() {
        let (broker, _) = MemoryBroker::connect();
        let resume = Resume { secret: OnceLock::from([7; 32]) };
        let bob = UserId::new("bob.the.builder").unwrap();
        let known =
            "110d30ea7d035e98cd88b252d02321304879409f94bff1948b58eb12479a93a6.bob.the.builder";
        assert_eq!(resume.issue(&broker, &bob).await.unwrap(), known);
        let upper = known.replace("110d30ea", "110D30EA");
        assert_eq!(resume.verify(&broker, &upper).await.unwrap(), Some(bob));
    }

    #[tokio::test]
    async fn a_resume_secret_proves_its_own_id_on_every_server_of_the_bus() {
        let bus = MemoryBus::new();
        let ((a, _), (b, _)) = (bus.connect(), bus.connect());
        let bob = UserId::new("bob.the.builder").unwrap();
        let resume = Resume::default().issue(&a, &bob).await.unwrap();

        let elsewhere = Resume::default();
        assert_eq!(elsewhere.verify(&b, &resume).await.unwrap(), Some(bob));
        let forged = resume.replace("bob", "eve");
        for wrong in [&forged, "", ".", "00.bob", "zz.bob", &resume[1..]] {
            assert_eq!(elsewhere.verify(&b, wrong).await.unwrap(), None, "{wrong}");
        }
        let (other_bus, _) = MemoryBroker::connect();
        assert_eq!(Resume::default().verify(&other_bus, &resume).await.unwrap(), None);
    }
}
