//! One kind of attack, from before it to after it.
//!
//! Attackers, members, the server and Redis share the machine: what the attackers use themselves,
//! and what a server of *any* kind would use for them, is no fault of this one. So "before" is
//! measured, in long runs, while the same attackers attack a second server, with a Redis of its own, in which
//! no member is. What an attack adds to that is what it takes from members at their server: locks
//! and queues that they share, the time of its threads and of its Redis, and traffic of their rooms.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chat_broker::testing::RedisServer;
use chat_core::UserId;
use chat_server::{JwtSigner, TokenClaims};
use tokio::time::timeout;

use super::attacker::{ATTACKERS, Attack, Attackers, Tally};
use super::long;
use super::members::{Members, Service};
use super::usage::Usage;
use crate::support::process::Process;
use crate::support::{Chat, alone, command, say};

/// Attackers get so much of Redis in any case: `--kept-rate`, 15,000 bytes a second and 3 MiB at
/// once, for each connection that has a budget of its own.
const KEPT_BURST: u64 = 3 * 1024 * 1024;
const KEPT_PER_SECOND: u64 = 15_000;

/// What the presence of a user in 128 rooms takes of Redis (docs/redis.md), and clients' buffers
/// of Redis itself.
const PRESENCE: u64 = 128 * 2_630;
const BUFFERS: u64 = 16 * 1024 * 1024;

/// How many bytes the kernel may hold for a connection: `--socket-buffer-bytes` is 128 KiB, for which
/// Linux takes twice as much, and one segment more.
const KERNEL_EACH: u64 = 320 * 1024;

/// For all members, who read at once and receive some KiB a second.
const LITTLE: u64 = 1024 * 1024;

/// How much later members may receive under attack.
const RATIO: f64 = 1.5;

/// What more may pass: the scheduler's share on two cores.
const TICK: Duration = Duration::from_millis(2);

/// Of these the best counts.
const ROUNDS: usize = 3;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Signs tokens for members and attackers.
#[derive(Clone)]
pub(crate) struct Tokens(Arc<JwtSigner>);

impl Tokens {
    pub(crate) fn new() -> Self {
        Self(Arc::new(JwtSigner::with_secret(SECRET.as_bytes()).unwrap()))
    }

    pub(crate) fn user(&self, n: usize) -> String {
        self.0.sign(&Self::claims(n)).unwrap()
    }

    pub(crate) fn moderator(&self, n: usize) -> String {
        let mut claims = Self::claims(n);
        claims.rooms = Some([("*".to_owned(), vec!["*".to_owned()])].into());
        self.0.sign(&claims).unwrap()
    }

    fn claims(n: usize) -> TokenClaims {
        TokenClaims::new(&UserId::new(format!("user-{n}")).unwrap(), Duration::from_secs(3600))
    }
}

pub(crate) struct Trial {
    name: &'static str,
    attacks: &'static [Attack],
    tokens: Option<Tokens>,
    has_slow_member: bool,
    members_receive_little: bool,
}

impl Trial {
    pub(crate) fn of(name: &'static str, attacks: &'static [Attack]) -> Self {
        let tokens = None;
        Self { name, attacks, tokens, has_slow_member: false, members_receive_little: false }
    }

    /// With a key, and attackers that are moderators.
    pub(crate) fn with_tokens(mut self) -> Self {
        self.tokens = Some(Tokens::new());
        self
    }

    /// One of the members is on a line of 20 Mbit/s.
    pub(crate) fn with_slow_member(mut self) -> Self {
        self.has_slow_member = true;
        self
    }

    /// No attack makes traffic for members, so that the kernel holds bytes for attackers only.
    pub(crate) fn without_traffic_for_members(mut self) -> Self {
        self.members_receive_little = true;
        self
    }

    pub(crate) async fn run(self) {
        let _alone = alone().await;
        for round in 1.. {
            let outcome = self.round().await;
            say(&format!("{}: {outcome}", self.name));
            self.assert_bounds(&outcome);
            if outcome.is_no_slower() {
                return;
            }
            assert!(round < ROUNDS, "members were slowed in each of {ROUNDS} rounds");
        }
    }

    async fn round(&self) -> Outcome {
        let time = Duration::from_secs(if long() { 20 } else { 2 });
        let tokens = self.tokens.as_ref();
        let target = Target::start(tokens).await;
        let members = Members::start(target.port(), tokens, self.has_slow_member).await;
        let attack = |port| Attackers::start(self.attacks, port, &members.victim, tokens);
        let (mut quiet, mut before) = (None, None);
        if long() {
            quiet = Some(members.served_for(time).await);
            let other = Target::start(tokens).await;
            let _elsewhere = attack(other.port());
            before = Some(members.served_for(time).await);
        }
        let attackers = attack(target.port());
        let outcome = target.watch(&members, &attackers.tally, time).await;
        drop(attackers);
        members.finish().await;
        Outcome { quiet, before, ..outcome }
    }

    fn assert_bounds(&self, outcome: &Outcome) {
        let (grown, bound) = (outcome.redis_grown(), outcome.redis_bound());
        assert!(grown < bound, "Redis grew by {grown} bytes, more than {bound}");
        let sockets = outcome.most.sockets;
        let bound = match self.members_receive_little {
            true => ATTACKERS as u64 * KERNEL_EACH + LITTLE,
            false => sockets.count as u64 * KERNEL_EACH,
        };
        assert!(sockets.unsent <= bound, "{sockets:?}: more than {bound} bytes");
        assert!(Tally::of(&outcome.tally.connections) > 0, "no attack");
    }
}

/// Runs one attack alone, by all attackers, and prints what it costs. The environment variable
/// `ATTACK` is a part of the names of those that are wanted.
pub(crate) async fn measure(attack: &'static Attack, tokens: Option<Tokens>) {
    if std::env::var("ATTACK").is_ok_and(|wanted| !attack.name.contains(&wanted)) {
        return;
    }
    let _alone = alone().await;
    let time = Duration::from_secs(if long() { 20 } else { 3 });
    let target = Target::start(tokens.as_ref()).await;
    let members = Members::start(target.port(), tokens.as_ref(), false).await;
    let quiet = members.served_for(time).await;
    let attacks = std::slice::from_ref(attack);
    let attackers = Attackers::start(attacks, target.port(), &members.victim, tokens.as_ref());
    let outcome = target.watch(&members, &attackers.tally, time).await;
    say(&format!("{}: {}", attack.name, Outcome { quiet: Some(quiet), ..outcome }));
}

/// A server as users start it, and its Redis.
struct Target {
    server: Chat,
    redis: RedisServer,
}

impl Target {
    async fn start(tokens: Option<&Tokens>) -> Self {
        let redis = RedisServer::start();
        let mut command = command();
        command.args(["--port", "0", "--redis-url", &redis.url()]).env_remove("CHAT_THREADS");
        if tokens.is_some() {
            command.env("JWT_SECRET", SECRET);
        }
        let server = Chat::start(&mut command);
        server.until_ready().await;
        Self { server, redis }
    }

    fn port(&self) -> u16 {
        self.server.port()
    }

    async fn usage(&self) -> Usage {
        Usage::read(&self.redis, Process(self.server.pid()), self.port()).await
    }

    /// How members are served for so long, and what is used meanwhile.
    async fn watch(&self, members: &Members, tally: &Arc<Tally>, time: Duration) -> Outcome {
        let first = self.usage().await;
        let presence_events = members.presence_events();
        let served = members.served_for(time);
        tokio::pin!(served);
        let mut most = first;
        let (attacked, last) = loop {
            let served = timeout(Duration::from_millis(200), &mut served).await;
            let usage = self.usage().await;
            most = most.max(usage);
            if let Ok(served) = served {
                break (served, usage);
            }
        };
        let presence_events = members.presence_events() - presence_events;
        let (quiet, before, tally) = (None, None, Arc::clone(tally));
        Outcome { quiet, before, attacked, first, most, last, time, presence_events, tally }
    }
}

struct Outcome {
    /// Without an attack.
    quiet: Option<Service>,
    /// While the same attackers attack another server.
    before: Option<Service>,
    attacked: Service,
    first: Usage,
    most: Usage,
    last: Usage,
    time: Duration,
    presence_events: u64,
    tally: Arc<Tally>,
}

impl Outcome {
    fn redis_grown(&self) -> u64 {
        self.most.redis_bytes.saturating_sub(self.first.redis_bytes)
    }

    fn redis_bound(&self) -> u64 {
        let kept = KEPT_BURST + KEPT_PER_SECOND * self.time.as_secs();
        ATTACKERS as u64 * (kept + PRESENCE) + BUFFERS
    }

    fn is_no_slower(&self) -> bool {
        let Some(before) = &self.before else { return true };
        [0.5, 0.99].into_iter().all(|part| {
            let before = before.within(part);
            self.attacked.within(part) <= before.mul_f64(RATIO).max(before + TICK)
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50/p99 {}", self.attacked)?;
        for (name, service) in [("before", &self.before), ("quiet", &self.quiet)] {
            service.iter().try_for_each(|service| write!(f, ", {name} {service}"))?;
        }
        let Self { tally, most, first, .. } = self;
        let (server, redis) = self.last.cpu_since(first);
        let seconds = self.time.as_secs_f64();
        let rate = |counter| Tally::of(counter) as f64 / seconds;
        write!(
            f,
            "; Redis +{} of {} KiB; kernel {} KiB, {} sockets; RSS +{} KiB; CPU server {server:.0} %, \
             Redis {redis:.0} %; in a second {:.0} frames, {:.0} KiB in, {:.0} KiB out, {:.1} \
             connections, {:.0} presence events",
            self.redis_grown() / 1024,
            self.redis_bound() / 1024,
            most.sockets.unsent / 1024,
            most.sockets.count,
            most.rss_kib.saturating_sub(first.rss_kib),
            rate(&tally.frames),
            rate(&tally.sent_bytes) / 1024.0,
            rate(&tally.received_bytes) / 1024.0,
            rate(&tally.connections),
            self.presence_events as f64 / seconds,
        )
    }
}
