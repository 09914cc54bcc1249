//! The keys of backends: what each may do, where, how often and until when.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::http::StatusCode;
use chat_core::{Capabilities, Capability, Grants, Pattern, RoomId, User, UserId, UserName};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use ring::digest::{SHA256, digest};
use subtle::ConstantTimeEq;
use tokio::sync::watch;

use crate::identity::random_id;
use crate::limits::{Rate, SharedBucket};
use crate::refusal::Refusal;
use crate::secret::Secret;

/// What the text form of a hash begins with.
const HASH_PREFIX: &str = "sha256:";

/// The fewest bytes of a secret: a shorter one can be guessed from its hash.
const SHORTEST_SECRET: usize = 16;

/// Names of which the server itself has the ids, after an `@`: its sender, and its topic.
const RESERVED_NAMES: [&str; 2] = ["server", "servers"];

/// The longest name of a key, in bytes.
const LONGEST_NAME: usize = 32;

/// Random characters of a generated secret: 200 bits.
const RANDOM_LEN: usize = 40;

/// What a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ApiScope {
    /// To send messages to rooms and to users.
    Send,
    /// To read histories, members, rooms, and who is online.
    Read,
    /// To kick, ban and unban users, and to make them join and leave rooms.
    Moderate,
    /// To export whole histories.
    Erase,
    /// To issue tokens for clients.
    Tokens,
    /// To list the servers, what one did in the last minutes, and what has the most traffic on it.
    Admin,
}

impl ApiScope {
    /// Every scope.
    pub const ALL: [Self; 6] =
        [Self::Send, Self::Read, Self::Moderate, Self::Erase, Self::Tokens, Self::Admin];

    /// The name, as it is written in the configuration file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Read => "read",
            Self::Moderate => "moderate",
            Self::Erase => "erase",
            Self::Tokens => "tokens",
            Self::Admin => "admin",
        }
    }

    /// The scope with this name; `None` if there is none.
    ///
    /// ```
    /// assert_eq!(chat_server::ApiScope::parse("send"), Some(chat_server::ApiScope::Send));
    /// ```
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }
}

impl fmt::Display for ApiScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A key with which a backend uses `/api`. The server knows the SHA-256 of the secret, not the
/// secret: a copy of its settings opens nothing.
///
/// ```
/// use std::time::{Duration, SystemTime};
///
/// use chat_server::{ApiKey, ApiScope, Rate, ServerConfig};
///
/// let (key, secret) = ApiKey::generate("shop")?;
/// assert!(secret.reveal().starts_with("ck_shop_"));
/// let day = Duration::from_secs(86_400);
/// let key = key
///     .scopes([ApiScope::Send, ApiScope::Read])
///     .rooms(["shop-*", "@shop-*"])
///     .rate(Rate::new(500, 1000))
///     .until(SystemTime::now() + 90 * day);
/// let config = ServerConfig::default().api_keys(vec![key]);
/// # Ok::<(), chat_server::InvalidApiKey>(())
/// ```
#[derive(Debug, Clone)]
pub struct ApiKey {
    name: String,
    /// One, and more while the secret is replaced.
    hashes: Vec<[u8; 32]>,
    scopes: Vec<ApiScope>,
    patterns: Vec<Pattern>,
    grants: Grants,
    rate: Option<Rate>,
    until: Option<SystemTime>,
}

/// Why a key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidApiKey {
    /// The name is not one that metrics, logs and secrets can hold, or is one of the server itself.
    #[error("a name has 1 to 32 letters, digits and dashes of ASCII, and is not server or servers")]
    Name,
    /// The hash is not in its form.
    #[error("expected \"sha256:\" and 64 hexadecimal digits, as `chat-server key` prints them")]
    Hash,
    /// The secret can be guessed.
    #[error("a secret has at least 16 bytes")]
    Secret,
}

impl ApiKey {
    /// A key whose secret is known. It has no scope yet, and is for every room and every user,
    /// without a rate and without an end.
    ///
    /// # Errors
    /// [`InvalidApiKey::Name`] and [`InvalidApiKey::Secret`].
    pub fn new(name: impl Into<String>, secret: &Secret) -> Result<Self, InvalidApiKey> {
        if secret.reveal().len() < SHORTEST_SECRET {
            return Err(InvalidApiKey::Secret);
        }
        Self::hashed(name.into(), hash(secret.reveal()))
    }

    /// A key by the hash of its secret, `sha256:…`; see [`new`](Self::new).
    ///
    /// # Errors
    /// [`InvalidApiKey::Name`] and [`InvalidApiKey::Hash`].
    pub fn with_hash(name: impl Into<String>, hash: &str) -> Result<Self, InvalidApiKey> {
        Self::hashed(name.into(), parse_hash(hash)?)
    }

    /// Adds the hash of a further secret, `sha256:…`, with which the same key is used: the secret is
    /// replaced while backends use the old one and the new one. Name, sender, idempotency keys and
    /// rate are those of the one key.
    ///
    /// ```
    /// use chat_server::ApiKey;
    ///
    /// let (old, _) = ApiKey::generate("shop")?;
    /// let (new, secret) = ApiKey::generate("shop")?;
    /// let key = old.also_hash(&new.hash())?;
    /// # Ok::<(), chat_server::InvalidApiKey>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidApiKey::Hash`].
    pub fn also_hash(mut self, hash: &str) -> Result<Self, InvalidApiKey> {
        self.hashes.push(parse_hash(hash)?);
        Ok(self)
    }

    /// A key with a new random secret, `ck_NAME_…`, which only the backend keeps; see
    /// [`new`](Self::new).
    ///
    /// # Errors
    /// [`InvalidApiKey::Name`].
    pub fn generate(name: impl Into<String>) -> Result<(Self, Secret), InvalidApiKey> {
        let name = name.into();
        let secret = Secret::new(format!("ck_{name}_{}", random_id(RANDOM_LEN)));
        Ok((Self::hashed(name, hash(secret.reveal()))?, secret))
    }

    /// The key of [`ServerConfig::api_key`](crate::ServerConfig::api_key): named `api`, with every scope.
    pub(crate) fn of_all_scopes(secret: &Secret) -> Result<Self, InvalidApiKey> {
        Ok(Self::new("api", secret)?.scopes(ApiScope::ALL))
    }

    fn hashed(name: String, hash: [u8; 32]) -> Result<Self, InvalidApiKey> {
        if !is_name(&name) {
            return Err(InvalidApiKey::Name);
        }
        if RESERVED_NAMES.contains(&name.as_str()) {
            return Err(InvalidApiKey::Name);
        }
        let (scopes, rate, until) = (Vec::new(), None, None);
        let grants = Grants::new([("*".into(), Capabilities::all())]);
        let hashes = vec![hash];
        Ok(Self { name, hashes, scopes, patterns: vec!["*".into()], grants, rate, until })
    }

    /// Sets what the key may be used for. Default: nothing.
    #[must_use]
    pub fn scopes(mut self, scopes: impl IntoIterator<Item = ApiScope>) -> Self {
        self.scopes = scopes.into_iter().collect();
        self
    }

    /// Sets the rooms that the key is for, by [patterns](Grants) as in tokens: one that begins with
    /// `@` is about users, and `*` is about all rooms and all users. Default: `*`.
    #[must_use]
    pub fn rooms(mut self, patterns: impl IntoIterator<Item = impl Into<Pattern>>) -> Self {
        self.patterns = patterns.into_iter().map(Into::into).collect();
        let rules = self.patterns.iter().map(|pattern| (pattern.clone(), Capabilities::all()));
        self.grants = Grants::new(rules);
        self
    }

    /// Sets how many calls the key may make on one server. A call above the rate is answered with 429
    /// and `Retry-After`. Default: no limit.
    #[must_use]
    pub fn rate(mut self, rate: impl Into<Option<Rate>>) -> Self {
        self.rate = rate.into();
        self
    }

    /// Sets when the key ends. Default: never.
    #[must_use]
    pub fn until(mut self, until: impl Into<Option<SystemTime>>) -> Self {
        self.until = until.into();
        self
    }

    /// The name of the key, in the log, in metrics, and as the sender of its messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The hash of the secret, of several of the first, `sha256:…`, as it is written in the
    /// configuration file.
    #[must_use]
    pub fn hash(&self) -> String {
        format!("{HASH_PREFIX}{}", HEXLOWER.encode(&self.hashes[0]))
    }
}

fn is_name(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=LONGEST_NAME).contains(&text.len()) && text.bytes().all(is_allowed)
}

/// Reads the form `sha256:…`.
fn parse_hash(text: &str) -> Result<[u8; 32], InvalidApiKey> {
    let digits = text.strip_prefix(HASH_PREFIX).ok_or(InvalidApiKey::Hash)?;
    let bytes = HEXLOWER_PERMISSIVE.decode(digits.as_bytes());
    bytes.ok().and_then(|bytes| bytes.try_into().ok()).ok_or(InvalidApiKey::Hash)
}

fn hash(secret: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
    hash
}

/// The keys of a server, which may be replaced while it runs.
#[derive(Debug)]
pub(crate) struct ApiKeys(watch::Sender<ActiveKeys>);

pub(crate) type ActiveKeys = Arc<[Arc<ActiveKey>]>;

/// A key, and what it has used of its rate.
#[derive(Debug)]
pub(crate) struct ActiveKey {
    key: ApiKey,
    /// The sender of its messages.
    sender: User,
    calls: SharedBucket,
    /// The origin of the times of `calls`.
    created: Instant,
}

impl ApiKeys {
    pub(crate) fn new(keys: Vec<ApiKey>) -> Self {
        Self(watch::Sender::new(active(keys)))
    }

    /// Replaces all keys. The rates of the new ones are unused.
    pub(crate) fn replace(&self, keys: Vec<ApiKey>) {
        self.0.send_replace(active(keys));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    pub(crate) fn all(&self) -> ActiveKeys {
        Arc::clone(&self.0.borrow())
    }

    /// The keys as they change.
    pub(crate) fn watch(&self) -> watch::Receiver<ActiveKeys> {
        self.0.subscribe()
    }

    /// The name in a secret of the form `ck_NAME_…` that is not known, which is public: that of a key of
    /// this server, or of one that `chat-server key` has made. Anything else may be secret.
    pub(crate) fn name_in<'a>(&self, secret: &'a str) -> Option<&'a str> {
        let (name, rest) = secret.strip_prefix("ck_")?.split_once('_')?;
        let is_known = self.all().iter().any(|key| key.name() == name);
        (is_name(name) && (is_known || rest.len() == RANDOM_LEN)).then_some(name)
    }

    /// The key with this secret. Takes the same time for every secret of the same length.
    pub(crate) fn find(&self, secret: &str) -> Option<Arc<ActiveKey>> {
        let keys = self.all();
        let hash = hash(secret);
        let mut found = None;
        for active in keys.iter() {
            for known in &active.key.hashes {
                if bool::from(known.ct_eq(&hash)) {
                    found = Some(Arc::clone(active));
                }
            }
        }
        found
    }
}

fn active(keys: Vec<ApiKey>) -> ActiveKeys {
    keys.into_iter().map(|key| Arc::new(ActiveKey::new(key))).collect()
}

impl ActiveKey {
    #[allow(clippy::expect_used, reason = "letters, digits and dashes, of 32 bytes at most")]
    fn new(key: ApiKey) -> Self {
        let id = UserId::new(format!("@{}", key.name)).expect("a key's name is a name");
        let name = UserName::new(&key.name).expect("a key's name is a name");
        let sender = User::new(id, Some(name));
        Self { key, sender, calls: SharedBucket::default(), created: Instant::now() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.key.name
    }

    pub(crate) fn sender(&self) -> &User {
        &self.sender
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ends_at().is_some_and(|end| end <= SystemTime::now())
    }

    pub(crate) fn ends_at(&self) -> Option<SystemTime> {
        self.key.until
    }

    pub(crate) fn scopes(&self) -> &[ApiScope] {
        &self.key.scopes
    }

    /// The texts of the patterns that [`ApiKey::rooms`] has.
    pub(crate) fn patterns(&self) -> impl Iterator<Item = &str> {
        self.key.patterns.iter().map(Pattern::as_str)
    }

    /// Takes a call from the rate of the key.
    pub(crate) fn take_call(&self) -> Result<(), Refusal> {
        let Some(rate) = self.key.rate else { return Ok(()) };
        let taken = self.calls.take_within(rate, self.created.elapsed(), Duration::ZERO);
        taken.map(drop).map_err(Refusal::http_rate)
    }

    pub(crate) fn check_scope(&self, scope: ApiScope) -> Result<(), Refusal> {
        if self.key.scopes.contains(&scope) {
            return Ok(());
        }
        Err(self.forbidden(format_args!("lacks the scope \"{scope}\"")))
    }

    pub(crate) fn check_room(&self, room: &RoomId) -> Result<(), Refusal> {
        if self.is_for_room(room) {
            return Ok(());
        }
        Err(self.forbidden(format_args!("is not for the room {:?}", room.as_str())))
    }

    pub(crate) fn check_user(&self, user: &UserId) -> Result<(), Refusal> {
        if self.is_for_user(user) {
            return Ok(());
        }
        Err(self.forbidden(format_args!("is not for the user {:?}", user.as_str())))
    }

    /// Checks that every room whose name begins with `prefix` is one that this key is for.
    pub(crate) fn check_prefix(&self, prefix: &str) -> Result<(), Refusal> {
        let beginning = format!("{prefix}*");
        // The `*` at the end of the beginning can only match a `*` of the pattern.
        let covers =
            |pattern: &Pattern| !pattern.as_str().starts_with('@') && pattern.matches(&beginning);
        if self.key.patterns.iter().any(covers) {
            return Ok(());
        }
        Err(self.forbidden(format_args!("is not for all that the pattern {beginning:?} matches")))
    }

    /// Checks that every name which matches `rule`, a pattern in a token, is one that this key is for.
    #[cfg_attr(not(feature = "jwt"), allow(dead_code, reason = "of use to tokens alone"))]
    pub(crate) fn check_rule(&self, rule: &str) -> Result<(), Refusal> {
        let covers = |pattern: &Pattern| {
            let pattern_of_users = pattern.as_str().starts_with('@');
            match rule {
                _ if pattern.as_str() == "*" => true,
                // About rooms and users at once.
                "*" => false,
                // A `*` in the rule can only match a `*` of the pattern, which matches whatever
                // the rule's does.
                _ => rule.starts_with('@') == pattern_of_users && pattern.matches(rule),
            }
        };
        if self.key.patterns.iter().any(covers) {
            return Ok(());
        }
        Err(self.forbidden(format_args!("is not for all that the pattern {rule:?} matches")))
    }

    pub(crate) fn is_for_room(&self, room: &RoomId) -> bool {
        self.key.grants.allow(Capability::Join, room)
    }

    pub(crate) fn is_for_user(&self, user: &UserId) -> bool {
        self.key.grants.allow_direct(user)
    }

    fn forbidden(&self, why: fmt::Arguments<'_>) -> Refusal {
        let message = format!("The key \"{}\" {why}.", self.key.name);
        Refusal::new(StatusCode::FORBIDDEN, "forbidden", message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn active_key(key: ApiKey) -> Arc<ActiveKey> {
        Arc::clone(&active(vec![key])[0])
    }

    #[test]
    fn hash_is_the_sha256_of_the_secret() {
        let secret = Secret::new("ck_shop_0123456789");
        let key = ApiKey::new("shop", &secret).unwrap();
        let known = "sha256:e999059b3dfa6874927f46323415529317119b6fa10bb86d832e830afee19896";
        assert_eq!(key.hash(), known);
        let keys = ApiKeys::new(vec![ApiKey::with_hash("shop", &key.hash()).unwrap()]);
        assert_eq!(keys.find(secret.reveal()).unwrap().name(), "shop");
        for wrong in ["", "ck_shop_012345678", "ck_shop_01234567890", &key.hash()] {
            assert!(keys.find(wrong).is_none(), "{wrong}");
        }
        keys.replace(Vec::new());
        assert!(keys.is_empty() && keys.find(secret.reveal()).is_none());
    }

    #[test]
    fn invalid_keys_are_refused() {
        let secret = Secret::new("0123456789abcdef");
        for name in ["", "a b", "a_b", "@a", "é", "x\n", "server", "servers", &"x".repeat(33)] {
            assert_eq!(ApiKey::new(name, &secret).unwrap_err(), InvalidApiKey::Name, "{name}");
        }
        for hash in ["", "sha256:", "sha256:00", "md5:00", &"0".repeat(64)] {
            let error = ApiKey::with_hash("a", hash).unwrap_err();
            assert_eq!(error, InvalidApiKey::Hash, "{hash}");
        }
        let short = Secret::new("0123456789abcde");
        assert_eq!(ApiKey::new("a", &short).unwrap_err(), InvalidApiKey::Secret);
    }

    #[test]
    fn key_is_for_its_rooms_and_users() {
        let (key, _) = ApiKey::generate("acme").unwrap();
        let everywhere = active_key(key.clone());
        let acme = active_key(key.rooms(["acme-*", "@acme-*"]));
        let room = |name| RoomId::new(name).unwrap();
        let user = |name| UserId::new(name).unwrap();
        assert!(acme.check_room(&room("acme-1")).is_ok() && acme.check_room(&room("b")).is_err());
        assert!(acme.check_user(&user("acme-1")).is_ok() && acme.check_user(&user("b")).is_err());
        assert!(everywhere.check_room(&room("b")).is_ok());
        assert!(everywhere.check_user(&user("@b")).is_ok());
    }

    #[test]
    fn rule_of_a_token_is_within_the_patterns_of_the_key() {
        let (key, _) = ApiKey::generate("acme").unwrap();
        let everywhere = active_key(key.clone());
        let acme = active_key(key.rooms(["acme-*", "@acme-*-x"]));
        for rule in ["acme-1", "acme-*", "acme-*-support", "@acme-*-x", "@acme-1-x"] {
            assert!(acme.check_rule(rule).is_ok(), "{rule}");
        }
        for rule in ["*", "a*", "*acme-1", "@*", "@acme-*", "@acme-x*", "b", "@b", ""] {
            assert!(acme.check_rule(rule).is_err(), "{rule}");
            assert!(everywhere.check_rule(rule).is_ok(), "{rule}");
        }
    }

    #[test]
    fn rate_is_refused_and_not_waited_for() {
        let (key, _) = ApiKey::generate("shop").unwrap();
        let slow = active_key(key.clone().rate(Rate::new(1, 2)));
        assert!(slow.take_call().is_ok() && slow.take_call().is_ok());
        assert_eq!(slow.take_call().unwrap_err().status, StatusCode::TOO_MANY_REQUESTS);
        let unlimited = active_key(key);
        assert!((0..1000).all(|_| unlimited.take_call().is_ok()));
    }

    #[test]
    fn key_ends() {
        let (key, _) = ApiKey::generate("shop").unwrap();
        let now = SystemTime::now();
        assert!(!active_key(key.clone()).has_ended());
        assert!(active_key(key.clone().until(now)).has_ended());
        assert!(!active_key(key.until(now + Duration::from_secs(60))).has_ended());
    }
}
