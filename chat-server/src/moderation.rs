//! Who is put out: of a room, or of the server; once, or for some time.
//!
//! Each [`sanction`] is a record that all servers share through the broker: it is stored first,
//! and every server acts on it when it hears that records have changed, after each lost
//! connection, and at the latest when it looks by itself. Bans are then known here, without
//! asking anybody, whenever somebody joins or sends.

mod sanction;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use chat_broker::{BrokerError, Hub, Record, Records};
use chat_core::{RoomId, Topic, UserId};
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

pub(crate) use sanction::{
    Actor, Kind, LONGEST_BAN, NO_TIME, SanctionNotice, Scope, UNSUPPORTED, impose, unban,
};
use sanction::{Stored, key, target_of};

use crate::member::Member;
use crate::sessions::Sessions;

/// How often it is looked for records without being told of any.
const LOOK: Duration = Duration::from_secs(10);

/// How soon after a failure.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The sanctions that stand.
#[derive(Debug, Default)]
pub(crate) struct Moderation {
    sanctions: RwLock<HashMap<String, ActiveSanction>>,
    /// One of [`UNKNOWN`], [`NONE`] and [`SOME`]: that none stand, the common case, costs a look.
    standing: AtomicU8,
    /// Counts what was acted on, so that a kick is for those alone who were there.
    clock: AtomicU32,
    /// They have been read once.
    known: watch::Sender<bool>,
}

const UNKNOWN: u8 = 0;
const NONE: u8 = 1;
const SOME: u8 = 2;

#[derive(Debug, Clone)]
struct ActiveSanction {
    /// Tells it from an earlier one of the same kind, scope and user.
    id: String,
    reason: Option<Arc<str>>,
    until: Instant,
    /// The reading of the clock when this server acted on it.
    acted: u32,
}

impl Moderation {
    /// Acts on what all servers agree on, until the broker is closed. Without a shared table no user
    /// can be banned, and joins do not wait for the bans.
    pub(crate) async fn run(self: Arc<Self>, hub: Hub<Member>, sessions: Arc<Sessions>) {
        let Some(table) = hub.broker().table() else {
            return self.act_on(Records::default(), &hub, &sessions);
        };
        let (mut version, mut failed) = (0, false);
        loop {
            let pause = match table.changes_since(version).await {
                Ok(records) => {
                    version = records.version;
                    self.act_on(records, &hub, &sessions);
                    if std::mem::take(&mut failed) {
                        tracing::info!("bans and kicks can be read again");
                    }
                    LOOK
                }
                Err(BrokerError::Closed) => return,
                Err(error) => {
                    if !std::mem::replace(&mut failed, true) {
                        tracing::warn!(%error, "bans and kicks cannot be read");
                    }
                    LOOK_AGAIN
                }
            };
            tokio::select! {
                () = hub.records_changed() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Waits until the sanctions have been read once: before, nobody can be let in.
    ///
    /// Cancel safe.
    pub(crate) async fn known(&self) {
        // Fails if the sender is gone, which is `self`.
        let _ = self.known.subscribe().wait_for(|known| *known).await;
    }

    pub(crate) fn is_known(&self) -> bool {
        self.standing.load(Ordering::Acquire) != UNKNOWN
    }

    /// The present reading of the clock; see [`sanction_on`](Self::sanction_on).
    pub(crate) fn now(&self) -> u32 {
        self.clock.load(Ordering::Acquire)
    }

    /// Whether `user` is banned, and why.
    pub(crate) fn ban(&self, scope: Scope<'_>, user: &UserId) -> Option<SanctionNotice> {
        self.find(Kind::Ban, scope, user).map(|(notice, _)| notice)
    }

    /// What is to be done to `user`, who has been there since the clock read `since`.
    pub(crate) fn sanction_on(
        &self,
        scope: Scope<'_>,
        user: &UserId,
        since: u32,
    ) -> Option<SanctionNotice> {
        let kick = || {
            let (notice, acted) = self.find(Kind::Kick, scope, user)?;
            (acted > since).then_some(notice)
        };
        self.ban(scope, user).or_else(kick)
    }

    /// Whether so many sanctions stand that what is left is for backends.
    pub(crate) fn is_crowded(&self) -> bool {
        let sanctions = self.sanctions.read();
        sanctions.len() >= Records::MAX / 10 * 9
    }

    /// A sanction that stands, and the reading of the clock when this server acted on it.
    fn find(&self, kind: Kind, scope: Scope<'_>, user: &UserId) -> Option<(SanctionNotice, u32)> {
        if self.standing.load(Ordering::Acquire) != SOME {
            return None;
        }
        let sanctions = self.sanctions.read();
        let sanction = sanctions.get(&key(kind, scope, user))?;
        let stands = sanction.until > Instant::now();
        stands.then(|| (SanctionNotice { kind, reason: sanction.reason.clone() }, sanction.acted))
    }

    fn act_on(
        &self,
        Records { complete, records, .. }: Records,
        hub: &Hub<Member>,
        sessions: &Sessions,
    ) {
        let news = self.take_in(complete, records);
        self.known.send_replace(true);
        for (user, room) in &news {
            // A user who is listed after a lost connection has no connection that could leave.
            hub.expire_grace(room.clone().map(Topic::Room).as_ref(), user);
        }
        sessions.notify_users(news.iter().map(|(user, _)| user));
    }

    /// Returns the users whom something new concerns, each with the room, unless it is about all servers.
    fn take_in(&self, complete: bool, records: Vec<Record>) -> Vec<(UserId, Option<RoomId>)> {
        let mut sanctions = self.sanctions.write();
        let before = if complete { std::mem::take(&mut *sanctions) } else { HashMap::default() };
        let now = Instant::now();
        // Whoever was kicked before this server knew of anything was not here.
        let is_first = !self.is_known();
        let acted = self.clock.load(Ordering::Relaxed).wrapping_add(1);
        let mut news = Vec::new();
        for Record { key, value, expires_in, .. } in records {
            let stored = value.and_then(|value| serde_json::from_slice::<Stored>(&value).ok());
            let (Some(stored), Some(target)) = (stored, target_of(&key)) else {
                sanctions.remove(&key);
                continue;
            };
            let known = before.get(&key).or(sanctions.get(&key));
            let known = known.filter(|known| known.id == stored.id).map(|known| known.acted);
            if known.is_none() {
                news.push(target);
            }
            let sanction = ActiveSanction {
                id: stored.id,
                reason: stored.reason.map(Into::into),
                until: now.checked_add(expires_in).unwrap_or(now + LONGEST_BAN),
                acted: known.unwrap_or(if is_first { 0 } else { acted }),
            };
            sanctions.insert(key, sanction);
        }
        sanctions.retain(|_, sanction| sanction.until > now);
        let standing = if sanctions.is_empty() { NONE } else { SOME };
        self.standing.store(standing, Ordering::Release);
        self.clock.store(acted, Ordering::Release);
        news
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn record(key: String, id: &str, expires_in: Duration) -> Record {
        let value = format!(r#"{{"id":"{id}","reason":"because"}}"#);
        Record::new(key, Some(value.into()), expires_in)
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_kick_is_for_those_who_are_there_and_a_ban_for_all() {
        let (room, user) = (RoomId::new("r").unwrap(), UserId::new("u").unwrap());
        let (here, other) = (Scope::Room(&room), UserId::new("o").unwrap());
        let moderation = Moderation::default();
        let old = vec![record(key(Kind::Kick, here, &other), "0", HOUR)];
        moderation.take_in(true, old);
        let before = moderation.now();
        assert_eq!(moderation.sanction_on(here, &other, 0), None, "it was kicked from elsewhere");
        assert_eq!(moderation.sanction_on(here, &user, before), None);
        let kick = || vec![record(key(Kind::Kick, here, &user), "1", HOUR)];
        assert_eq!(moderation.take_in(false, kick()), [(user.clone(), Some(room.clone()))]);
        let kicked = moderation.sanction_on(here, &user, before).unwrap();
        assert_eq!((kicked.kind, kicked.reason.as_deref()), (Kind::Kick, Some("because")));
        assert_eq!(moderation.sanction_on(here, &user, moderation.now()), None, "who came back");
        assert_eq!(moderation.sanction_on(Scope::Server, &user, before), None);
        assert_eq!(moderation.sanction_on(here, &other, before), None);

        let back = moderation.now();
        assert!(moderation.take_in(true, kick()).is_empty(), "read again");
        assert_eq!(moderation.sanction_on(here, &user, back), None, "and not acted on again");

        moderation.take_in(false, vec![record(key(Kind::Ban, Scope::Server, &user), "2", HOUR)]);
        assert!(moderation.ban(Scope::Server, &user).is_some());
        assert!(moderation.sanction_on(Scope::Server, &user, moderation.now()).is_some());
        assert_eq!(moderation.ban(here, &user), None);
    }

    #[tokio::test(start_paused = true)]
    async fn sanctions_end() {
        let user = UserId::new("u").unwrap();
        let moderation = Moderation::default();
        let ban = |time| vec![record(key(Kind::Ban, Scope::Server, &user), "1", time)];
        moderation.take_in(false, ban(HOUR));
        sleep(HOUR).await;
        assert_eq!(moderation.ban(Scope::Server, &user), None, "by itself");
        moderation.take_in(false, ban(HOUR));
        let unban = Record::new(key(Kind::Ban, Scope::Server, &user), None, HOUR);
        moderation.take_in(false, vec![unban]);
        assert_eq!(moderation.ban(Scope::Server, &user), None, "by a unban");
        moderation.take_in(false, ban(HOUR));
        moderation.take_in(true, Vec::new());
        assert_eq!(moderation.ban(Scope::Server, &user), None, "with the table");
        assert_eq!(moderation.standing.load(Ordering::Relaxed), NONE);
    }

    #[test]
    fn what_is_not_a_sanction_is_passed_over() {
        let moderation = Moderation::default();
        let odd = ["", "ban", "ban\n", "other\nkey"].map(|key| record(key.to_owned(), "1", HOUR));
        moderation.take_in(true, odd.to_vec());
        let broken = Record::new("ban\nu", Some(Bytes::from_static(b"?")), HOUR);
        moderation.take_in(false, vec![broken]);
        assert_eq!(moderation.ban(Scope::Server, &UserId::new("u").unwrap()), None);
    }

    proptest::proptest! {
        /// Whatever may stand in Redis: what is no sanction is none, and the others go on.
        #[test]
        fn any_record_is_read(
            name in "(kick|ban|\\PC{0,3})(\n(u|\\PC{0,8})){0,3}",
            value in r#"\{"id":("x"|7|"(\\u[0-9a-f]{4}){0,2}")(,"reason":("\PC{0,8}"|null|\[))?\}?"#,
            bytes in proptest::option::of(proptest::collection::vec(0..=255_u8, 0..32)),
            seconds in 0..=u64::MAX,
        ) {
            let (user, moderation) = (UserId::new("me").unwrap(), Moderation::default());
            let value = bytes.unwrap_or(value.into_bytes());
            let odd = Record::new(name, Some(value.into()), Duration::from_secs(seconds));
            let ban = record(key(Kind::Ban, Scope::Server, &user), "1", HOUR);
            moderation.take_in(true, vec![odd, ban]);
            proptest::prop_assert!(moderation.ban(Scope::Server, &user).is_some());
        }
    }
}
