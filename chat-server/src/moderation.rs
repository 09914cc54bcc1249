//! Kicks and bans, from a room or from the server.
//!
//! Each [`sanction`] is a record in the table that all servers share through the broker. It is stored
//! first. Every server applies it when the broker notifies it of changed records, after a lost
//! connection to the broker, and otherwise at the next poll. Bans are kept in memory: a join or a send
//! checks them without the broker.

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
    Actor, LONGEST_BAN, SanctionKind, SanctionNotice, SanctionScope, UNSUPPORTED, ends_at, impose,
    unban,
};
pub use sanction::{Ban, BannedBy};
use sanction::{SanctionRecord, banned, key, target_of};

use crate::member::Member;
use crate::sessions::Sessions;

/// How often records are polled: the fallback for lost notifications.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// How soon records are read again after a failure.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// The active sanctions.
#[derive(Debug, Default)]
pub(crate) struct Moderation {
    sanctions: RwLock<HashMap<String, ActiveSanction>>,
    /// One of [`UNKNOWN`], [`NONE`] and [`SOME`]: without sanctions, the common case, a check is one
    /// atomic read.
    summary: AtomicU8,
    /// Counts changes of `sanctions`, so that a kick applies only to clients that joined before it.
    clock: AtomicU32,
    /// Whether the sanctions have been read once. Sent each time that they are read.
    loaded: watch::Sender<bool>,
}

const UNKNOWN: u8 = 0;
const NONE: u8 = 1;
const SOME: u8 = 2;

#[derive(Debug, Clone)]
struct ActiveSanction {
    /// Differs from that of an earlier sanction of the same kind, scope and user.
    id: Arc<str>,
    reason: Option<Arc<str>>,
    until: Instant,
    is_permanent: bool,
    at: Option<u64>,
    by: Option<BannedBy>,
    /// The clock when this server applied the sanction.
    applied_at: u32,
}

impl Moderation {
    /// Applies the shared records until the broker is closed. Without a shared table no user can be
    /// banned, and joins do not wait for the bans.
    pub(crate) async fn run(self: Arc<Self>, hub: Hub<Member>, sessions: Arc<Sessions>) {
        let Some(table) = hub.broker().table() else {
            return self.apply(Records::default(), &hub, &sessions);
        };
        let (mut version, mut failed) = (0, false);
        loop {
            let pause = match table.changes_since(version).await {
                Ok(records) => {
                    version = records.version;
                    self.apply(records, &hub, &sessions);
                    if std::mem::take(&mut failed) {
                        tracing::info!("sanctions readable again");
                    }
                    POLL_INTERVAL
                }
                Err(BrokerError::Closed) => return,
                Err(error) => {
                    if !std::mem::replace(&mut failed, true) {
                        tracing::warn!(%error, "cannot read sanctions, retrying");
                    }
                    RETRY_INTERVAL
                }
            };
            tokio::select! {
                () = hub.records_changed() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Waits until the sanctions have been read once.
    ///
    /// # Cancel safety
    /// Dropping the call changes nothing.
    pub(crate) async fn until_loaded(&self) {
        // Cannot fail: `self` owns the sender.
        let _ = self.loaded.subscribe().wait_for(|loaded| *loaded).await;
    }

    /// Waits until this server has applied the sanction that [`impose`] has stored as `id`.
    ///
    /// # Cancel safety
    /// Dropping the call changes nothing.
    pub(crate) async fn until_applied(
        &self,
        kind: SanctionKind,
        scope: SanctionScope<'_>,
        user: &UserId,
        id: &str,
    ) {
        let key = key(kind, scope, user);
        self.until(|sanctions| sanctions.get(&key).is_some_and(|known| *known.id == *id)).await;
    }

    /// Waits until `user` is not banned as far as this server knows.
    ///
    /// # Cancel safety
    /// Dropping the call changes nothing.
    pub(crate) async fn until_unbanned(&self, scope: SanctionScope<'_>, user: &UserId) {
        let key = key(SanctionKind::Ban, scope, user);
        self.until(|sanctions| !sanctions.contains_key(&key)).await;
    }

    async fn until(&self, is_so: impl Fn(&HashMap<String, ActiveSanction>) -> bool) {
        // Cannot fail: `self` owns the sender.
        let _ = self.loaded.subscribe().wait_for(|_| is_so(&self.sanctions.read())).await;
    }

    pub(crate) fn is_loaded(&self) -> bool {
        self.summary.load(Ordering::Acquire) != UNKNOWN
    }

    /// The clock; see [`sanction_on`](Self::sanction_on).
    pub(crate) fn now(&self) -> u32 {
        self.clock.load(Ordering::Acquire)
    }

    /// Whether `user` is banned, and why.
    pub(crate) fn ban(&self, scope: SanctionScope<'_>, user: &UserId) -> Option<SanctionNotice> {
        self.find(SanctionKind::Ban, scope, user).map(|(notice, _)| notice)
    }

    /// The ban of `user`, or a kick that was applied after `since`, a value of [`now`](Self::now).
    pub(crate) fn sanction_on(
        &self,
        scope: SanctionScope<'_>,
        user: &UserId,
        since: u32,
    ) -> Option<SanctionNotice> {
        let kick = || {
            let (notice, applied_at) = self.find(SanctionKind::Kick, scope, user)?;
            (applied_at > since).then_some(notice)
        };
        self.ban(scope, user).or_else(kick)
    }

    /// Whether this server has applied any sanction on `user` after `since`, a value of
    /// [`now`](Self::now). Takes time for all sanctions.
    pub(crate) fn has_sanctioned_since(&self, user: &UserId, since: u32) -> bool {
        let sanctions = self.sanctions.read();
        sanctions.iter().any(|(key, sanction)| {
            sanction.applied_at > since
                && target_of(key).is_some_and(|(sanctioned, _)| sanctioned == *user)
        })
    }

    /// Whether nine tenths of the table are used. The rest is reserved for backends, so that moderators
    /// cannot fill it.
    pub(crate) fn is_nearly_full(&self) -> bool {
        let sanctions = self.sanctions.read();
        sanctions.len() >= Records::MAX / 10 * 9
    }

    /// The active bans whose user and room are wanted, in the order of users and of rooms.
    pub(crate) fn bans(&self, is_wanted: impl Fn(&UserId, Option<&RoomId>) -> bool) -> Vec<Ban> {
        let now = Instant::now();
        let sanctions = self.sanctions.read();
        let bans = sanctions.iter().filter_map(|(key, sanction)| {
            let (user, room) = banned(key)?;
            let expires_in = sanction.until.saturating_duration_since(now);
            let reason = sanction.reason.as_deref().map(str::to_owned);
            let is_active = !expires_in.is_zero() && is_wanted(&user, room.as_ref());
            let ActiveSanction { is_permanent, at, ref by, .. } = *sanction;
            let by = by.clone();
            is_active.then_some(Ban { user, room, reason, expires_in, is_permanent, at, by })
        });
        let mut bans: Vec<_> = bans.collect();
        bans.sort_unstable_by(|one, other| (&one.user, &one.room).cmp(&(&other.user, &other.room)));
        bans
    }

    /// An active sanction, and the clock when this server applied it.
    fn find(
        &self,
        kind: SanctionKind,
        scope: SanctionScope<'_>,
        user: &UserId,
    ) -> Option<(SanctionNotice, u32)> {
        if self.summary.load(Ordering::Acquire) != SOME {
            return None;
        }
        let sanctions = self.sanctions.read();
        let sanction = sanctions.get(&key(kind, scope, user))?;
        let left = sanction.until.saturating_duration_since(Instant::now());
        let has_end = kind == SanctionKind::Ban && !sanction.is_permanent;
        (!left.is_zero()).then(|| {
            let (reason, until) = (sanction.reason.clone(), has_end.then(|| ends_at(left)));
            let id = Arc::clone(&sanction.id);
            (SanctionNotice { id, kind, reason, until }, sanction.applied_at)
        })
    }

    fn apply(
        &self,
        Records { complete, records, .. }: Records,
        hub: &Hub<Member>,
        sessions: &Sessions,
    ) {
        let targets = self.merge(complete, records);
        self.loaded.send_replace(true);
        for (user, room) in &targets {
            // A user in its grace period has no connection that could enforce the sanction.
            hub.expire_grace(room.clone().map(Topic::Room).as_ref(), user);
        }
        sessions.notify_users(targets.iter().map(|(user, _)| user));
    }

    /// Updates `sanctions`. Returns the targets of new ones: the user, and the room or `None` for the
    /// server.
    fn merge(&self, complete: bool, records: Vec<Record>) -> Vec<(UserId, Option<RoomId>)> {
        let mut sanctions = self.sanctions.write();
        let before = if complete { std::mem::take(&mut *sanctions) } else { HashMap::default() };
        let now = Instant::now();
        // A kick that this server reads at its start is older than all its connections.
        let is_first = !self.is_loaded();
        let applied_at = self.clock.load(Ordering::Relaxed).wrapping_add(1);
        let mut targets = Vec::new();
        for Record { key, value, expires_in, .. } in records {
            let stored =
                value.and_then(|value| serde_json::from_slice::<SanctionRecord>(&value).ok());
            let (Some(stored), Some(target)) = (stored, target_of(&key)) else {
                sanctions.remove(&key);
                continue;
            };
            let known = before.get(&key).or(sanctions.get(&key));
            let known = known.filter(|known| *known.id == *stored.id).map(|known| known.applied_at);
            if known.is_none() {
                targets.push(target);
            }
            let by = stored.by();
            let sanction = ActiveSanction {
                id: stored.id.into(),
                reason: stored.reason.map(Into::into),
                until: now.checked_add(expires_in).unwrap_or(now + LONGEST_BAN),
                is_permanent: stored.is_permanent,
                at: stored.at,
                by,
                applied_at: known.unwrap_or(if is_first { 0 } else { applied_at }),
            };
            sanctions.insert(key, sanction);
        }
        sanctions.retain(|_, sanction| sanction.until > now);
        let summary = if sanctions.is_empty() { NONE } else { SOME };
        self.summary.store(summary, Ordering::Release);
        self.clock.store(applied_at, Ordering::Release);
        targets
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
    fn kick_applies_to_present_members_and_ban_to_all() {
        let (room, user) = (RoomId::new("r").unwrap(), UserId::new("u").unwrap());
        let (here, other) = (SanctionScope::Room(&room), UserId::new("o").unwrap());
        let moderation = Moderation::default();
        let old = vec![record(key(SanctionKind::Kick, here, &other), "0", HOUR)];
        moderation.merge(true, old);
        let before = moderation.now();
        assert_eq!(
            moderation.sanction_on(here, &other, 0),
            None,
            "kicked before this server started"
        );
        assert_eq!(moderation.sanction_on(here, &user, before), None);
        let kick = || vec![record(key(SanctionKind::Kick, here, &user), "1", HOUR)];
        assert_eq!(moderation.merge(false, kick()), [(user.clone(), Some(room.clone()))]);
        let kicked = moderation.sanction_on(here, &user, before).unwrap();
        assert_eq!((kicked.kind, kicked.reason.as_deref()), (SanctionKind::Kick, Some("because")));
        assert_eq!(
            moderation.sanction_on(here, &user, moderation.now()),
            None,
            "joined after the kick"
        );
        assert_eq!(moderation.sanction_on(SanctionScope::Server, &user, before), None);
        assert_eq!(moderation.sanction_on(here, &other, before), None);

        let back = moderation.now();
        assert!(moderation.merge(true, kick()).is_empty(), "read again");
        assert_eq!(moderation.sanction_on(here, &user, back), None, "not applied twice");

        moderation.merge(
            false,
            vec![record(key(SanctionKind::Ban, SanctionScope::Server, &user), "2", HOUR)],
        );
        assert!(moderation.ban(SanctionScope::Server, &user).is_some());
        assert!(moderation.sanction_on(SanctionScope::Server, &user, moderation.now()).is_some());
        assert_eq!(moderation.ban(here, &user), None);
    }

    #[tokio::test(start_paused = true)]
    async fn sanction_ends_by_expiry_unban_or_empty_table() {
        let user = UserId::new("u").unwrap();
        let moderation = Moderation::default();
        let ban =
            |time| vec![record(key(SanctionKind::Ban, SanctionScope::Server, &user), "1", time)];
        moderation.merge(false, ban(HOUR));
        sleep(HOUR).await;
        assert_eq!(moderation.ban(SanctionScope::Server, &user), None, "expired");
        moderation.merge(false, ban(HOUR));
        let unban = Record::new(key(SanctionKind::Ban, SanctionScope::Server, &user), None, HOUR);
        moderation.merge(false, vec![unban]);
        assert_eq!(moderation.ban(SanctionScope::Server, &user), None, "unbanned");
        moderation.merge(false, ban(HOUR));
        moderation.merge(true, Vec::new());
        assert_eq!(moderation.ban(SanctionScope::Server, &user), None, "table emptied");
        assert_eq!(moderation.summary.load(Ordering::Relaxed), NONE);
    }

    #[test]
    fn unreadable_records_are_ignored() {
        let moderation = Moderation::default();
        let odd = ["", "ban", "ban\n", "other\nkey"].map(|key| record(key.to_owned(), "1", HOUR));
        moderation.merge(true, odd.to_vec());
        let broken = Record::new("ban\nu", Some(Bytes::from_static(b"?")), HOUR);
        moderation.merge(false, vec![broken]);
        assert_eq!(moderation.ban(SanctionScope::Server, &UserId::new("u").unwrap()), None);
    }

    /// Servers of an earlier version store no `at` and no `by`; later ones may store a `by` of another kind.
    #[test]
    fn ban_of_another_version_holds_without_its_author() {
        for rest in ["", r#","at":7"#, r#","by":"robot","robot":{}"#, r#","by":"key""#] {
            let (user, moderation) = (UserId::new("u").unwrap(), Moderation::default());
            let value = format!(r#"{{"id":"1","reason":"because"{rest}}}"#);
            let key = key(SanctionKind::Ban, SanctionScope::Server, &user);
            moderation.merge(true, vec![Record::new(key, Some(value.into()), HOUR)]);
            let [ban] = &moderation.bans(|_, _| true)[..] else { panic!("no ban: {rest}") };
            assert_eq!((&ban.user, ban.reason.as_deref()), (&user, Some("because")));
            assert_eq!((ban.at, &ban.by), (rest.contains("at").then_some(7), &None), "{rest}");
        }
    }

    proptest::proptest! {
        /// Redis may hold any record: an unreadable one does not affect the others.
        #[test]
        fn any_record_is_handled(
            name in "(kick|ban|\\PC{0,3})(\n(u|\\PC{0,8})){0,3}",
            value in r#"\{"id":("x"|7|"(\\u[0-9a-f]{4}){0,2}")(,"reason":("\PC{0,8}"|null|\[))?\}?"#,
            bytes in proptest::option::of(proptest::collection::vec(0..=255_u8, 0..32)),
            seconds in 0..=u64::MAX,
        ) {
            let (user, moderation) = (UserId::new("me").unwrap(), Moderation::default());
            let value = bytes.unwrap_or(value.into_bytes());
            let odd = Record::new(name, Some(value.into()), Duration::from_secs(seconds));
            let ban = record(key(SanctionKind::Ban, SanctionScope::Server, &user), "1", HOUR);
            moderation.merge(true, vec![odd, ban]);
            proptest::prop_assert!(moderation.ban(SanctionScope::Server, &user).is_some());
        }
    }
}
