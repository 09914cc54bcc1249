//! Who a connection belongs to, without authentication.

use std::sync::OnceLock;

use chat_broker::{Broker, BrokerError};
use chat_core::UserId;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Letters and digits that are hard to mistake for one another.
const ALPHABET: &[u8; 32] = b"23456789abcdefghijkmnpqrstuvwxyz";

/// `len` characters that nobody can guess: 5 bits each.
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
        let tag = self.mac(broker, id).await?.finalize().into_bytes();
        let hex: String = tag.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("{hex}.{id}"))
    }

    /// The id that a client's `resume` proves; `None` if it proves nothing.
    pub(crate) async fn verify(
        &self,
        broker: &dyn Broker,
        resume: &str,
    ) -> Result<Option<UserId>, BrokerError> {
        let Some((hex, id)) = resume.split_once('.') else { return Ok(None) };
        let (Some(tag), Ok(id)) = (from_hex(hex), UserId::new(id)) else { return Ok(None) };
        let genuine = self.mac(broker, &id).await?.verify_slice(&tag).is_ok();
        Ok(genuine.then_some(id))
    }

    async fn mac(&self, broker: &dyn Broker, id: &UserId) -> Result<Hmac<Sha256>, BrokerError> {
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
        // A key shorter than a block is padded with zeros (RFC 2104, section 2).
        let mut key = [0; 64];
        key[..secret.len()].copy_from_slice(secret);
        let mut mac = Hmac::<Sha256>::new(&key.into());
        mac.update(b"chat resume\0");
        mac.update(id.as_str().as_bytes());
        Ok(mac)
    }
}

/// For a broker whose servers share no table: it proves ids to this process alone.
fn own_secret() -> Result<[u8; 32], BrokerError> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(BrokerError::unavailable)?;
    Ok(secret)
}

fn from_hex(hex: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        hex.chars().map(|digit| digit.to_digit(16).map(|value| value as u8)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
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
        let (stranger, _) = MemoryBroker::connect();
        assert_eq!(Resume::default().verify(&stranger, &resume).await.unwrap(), None);
    }
}
