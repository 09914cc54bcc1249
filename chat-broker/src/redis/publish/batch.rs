//! Groups the publications of a pipeline into commands.
//!
//! Kept publications share calls of `publish.lua`: a call of its own would cost Redis as much as
//! two more publications in a call. An ephemeral one is a `PUBLISH`. Publications of a topic keep
//! their order.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::BufMut;
use chat_core::{Epoch, Retention};
use redis::{Pipeline, RedisResult, Value};

use super::queue::Job;
use super::reply;
use crate::publish::Published;
use crate::random;
use crate::redis::config::MAX_TTL;
use crate::redis::error::is_unknown_script;
use crate::redis::names::Address;
use crate::redis::scripts::Script;
use crate::redis::wire::{self, MessageId};

/// The part of its lifetime by which a log may outlive it. One publication in this time extends the
/// lifetime, instead of each.
const LIFETIME_SLACK: u32 = 16;

/// The part of its entries by which a log may exceed them. They are trimmed in one command, instead
/// of one with each publication.
const TRIM_SLACK: u32 = 8;

/// How much longer than its log a position lives.
const MARGIN: Duration = Duration::from_secs(60);

/// Above any history, and no more than numbers in Lua are exact for.
const MAX_BYTES: usize = usize::MAX >> 11;

// Flags of a topic in `publish.lua`.
const EXTENDS: u8 = 1;
const OUTLIVES: u8 = 2;
const HAS_KEYS: u8 = 4;
const IS_LARGE: u8 = 8;

/// The publications of a pipeline, and their commands.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) jobs: Vec<Job>,
    commands: Vec<Command>,
}

/// A command, with the indexes of its publications.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    /// `PUBLISH` of an ephemeral publication.
    Publish(usize),
    /// A call of `publish.lua`.
    Keep { retention: Retention, topics: Vec<TopicJobs> },
}

/// Publications of one topic in a call.
#[derive(Debug, PartialEq, Eq)]
struct TopicJobs {
    indexes: Vec<usize>,
    /// The call extends the lifetime of the log.
    extends: bool,
}

impl Batch {
    /// Groups `jobs`; `extends` says whether the lifetime of the log of a publication must be extended.
    pub(crate) fn new(jobs: Vec<Job>, extends: impl Fn(&Job, Retention) -> bool) -> Self {
        let mut commands = Commands::default();
        for (n, job) in jobs.iter().enumerate() {
            match job.options.retention {
                None => commands.publish(n, job),
                Some(retention) => commands.keep(n, job, retention, &extends),
            }
        }
        let commands = commands.commands;
        Self { jobs, commands }
    }

    /// The number of commands.
    pub(crate) fn len(&self) -> usize {
        self.commands.len()
    }

    /// Adds the commands to a pipeline, in the order in which they must be executed. A position that
    /// has to live for `position_ttl` after the last publication is written if the log may not.
    pub(crate) fn add_to(&self, pipeline: &mut Pipeline, script: &Script, position_ttl: Duration) {
        for command in &self.commands {
            match command {
                Command::Publish(n) => {
                    if let Some(job) = self.jobs.get(*n) {
                        let message = wire::ephemeral(&job.payload);
                        pipeline.cmd("PUBLISH").arg(job.address.channel()).arg(message);
                    }
                }
                Command::Keep { retention, topics } => {
                    let mut call = Call::default();
                    let outlives = retention.ttl < position_ttl;
                    for topic in topics {
                        let jobs = topic.indexes.iter().filter_map(|n| self.jobs.get(*n));
                        call.add(jobs.collect(), *retention, topic.extends, outlives);
                    }
                    let command = script.call(pipeline, &call.keys);
                    command.arg(settings(*retention, position_ttl)).arg(call.control);
                    for job in call.jobs {
                        command.arg(wire::entry(job.id, &job.payload));
                    }
                }
            }
        }
    }

    /// Reads the replies to the commands. The outcome of each publication is `None` if Redis did not
    /// execute it for lack of the script, unless a later one of its topic was executed: sent again,
    /// it would follow that.
    pub(crate) fn outcomes(&self, replies: Vec<Value>) -> Vec<Option<RedisResult<Published>>> {
        let mut outcomes: Vec<_> = self.jobs.iter().map(|_| None).collect();
        let mut set = |n: usize, outcome| {
            if let Some(place) = outcomes.get_mut(n) {
                *place = Some(outcome);
            }
        };
        let mut unknown_script = None;
        for (command, reply) in self.commands.iter().zip(replies) {
            match command {
                Command::Publish(n) => set(*n, reply::published(reply)),
                Command::Keep { .. } if is_unknown_script(&reply) => {
                    unknown_script = reply.extract_error().err();
                }
                Command::Keep { topics, .. } => {
                    let sizes = topics.iter().map(|topic| topic.indexes.len());
                    let indexes = topics.iter().flat_map(|topic| &topic.indexes);
                    match reply::kept(reply, sizes) {
                        Ok(results) => indexes.zip(results).for_each(|(n, result)| set(*n, result)),
                        Err(error) => indexes.for_each(|n| set(*n, Err(error.clone()))),
                    }
                }
            }
        }
        if let Some(error) = unknown_script {
            let mut executed = HashSet::new();
            for (job, outcome) in self.jobs.iter().zip(&mut outcomes).rev() {
                if outcome.is_some() {
                    executed.insert(job.address.channel());
                } else if executed.contains(job.address.channel()) {
                    *outcome = Some(Err(error.clone()));
                }
            }
        }
        outcomes
    }

    /// The first publication of each topic whose log's lifetime was extended, and the retention.
    pub(crate) fn extended(&self) -> impl Iterator<Item = (usize, Retention)> {
        self.commands
            .iter()
            .filter_map(|command| match command {
                Command::Keep { retention, topics } => Some((*retention, topics)),
                Command::Publish(_) => None,
            })
            .flat_map(|(retention, topics)| {
                let extended = topics.iter().filter(|topic| topic.extends);
                extended.filter_map(move |topic| Some((*topic.indexes.first()?, retention)))
            })
    }
}

#[derive(Default)]
struct Commands<'a> {
    commands: Vec<Command>,
    /// The latest call for each retention.
    calls: HashMap<Retention, usize>,
    /// The latest command that has a publication of each topic, and the topic's index in it.
    latest: HashMap<&'a str, (usize, usize)>,
}

impl<'a> Commands<'a> {
    fn publish(&mut self, n: usize, job: &'a Job) {
        // Mostly rooms without history publish nothing else.
        if !self.calls.is_empty() {
            self.latest.insert(job.address.channel(), (self.commands.len(), 0));
        }
        self.commands.push(Command::Publish(n));
    }

    fn keep(
        &mut self,
        n: usize,
        job: &'a Job,
        retention: Retention,
        extends: impl Fn(&Job, Retention) -> bool,
    ) {
        let channel = job.address.channel();
        let latest = self.latest.get(channel).copied();
        // A call before the topic's latest command would change the order.
        let call = self.calls.get(&retention).copied();
        let call = call.filter(|call| latest.is_none_or(|(command, _)| command <= *call));
        let open = call.and_then(|call| Some((call, self.commands.get_mut(call)?)));
        let new = || TopicJobs { indexes: vec![n], extends: extends(job, retention) };
        let Some((call, Command::Keep { topics, .. })) = open else {
            self.calls.insert(retention, self.commands.len());
            self.latest.insert(channel, (self.commands.len(), 0));
            self.commands.push(Command::Keep { retention, topics: vec![new()] });
            return;
        };
        let topic = latest.filter(|(command, _)| *command == call);
        match topic.and_then(|(_, topic)| topics.get_mut(topic)) {
            Some(topic) => topic.indexes.push(n),
            None => {
                self.latest.insert(channel, (call, topics.len()));
                topics.push(new());
            }
        }
    }
}

/// In which time one publication has to extend the lifetime of its log.
pub(crate) fn slack(retention: Retention) -> Duration {
    ttl(retention) / LIFETIME_SLACK
}

fn ttl(retention: Retention) -> Duration {
    retention.ttl.clamp(Duration::from_secs(1), MAX_TTL)
}

/// Adds a call with a single empty publication, of a topic that keeps one for `ttl`.
pub(crate) fn add_probe(
    pipeline: &mut Pipeline,
    script: &Script,
    address: &Address,
    ttl: Duration,
) {
    let call = script.call(pipeline, &[address.log(), &address.position()]);
    call.arg(settings(Retention::new(1, 0, ttl), ttl)).arg(&[EXTENDS, 1]);
    call.arg(wire::entry(MessageId::random(), b""));
}

/// The arguments of a call.
#[derive(Default)]
struct Call<'a> {
    keys: Vec<String>,
    control: Vec<u8>,
    jobs: Vec<&'a Job>,
}

impl<'a> Call<'a> {
    /// Adds the publications of a topic.
    fn add(&mut self, jobs: Vec<&'a Job>, retention: Retention, extends: bool, outlives: bool) {
        let Some(first) = jobs.first() else { return };
        let is_large = |job: &&Job| retention.excess(job.payload.len()) > 0;
        let has_keys = jobs.iter().any(|job| job.has_key());
        let flags = [
            (EXTENDS, extends),
            (OUTLIVES, outlives),
            (HAS_KEYS, has_keys),
            (IS_LARGE, jobs.iter().any(is_large)),
        ];
        self.keys.push(first.address.log().to_owned());
        if extends || outlives {
            self.keys.push(first.address.position());
        }
        let flags = flags.iter().filter(|(_, is_set)| *is_set).map(|(flag, _)| flag).sum();
        self.control.extend([flags, jobs.len() as u8]);
        if has_keys {
            for job in &jobs {
                self.control.push(u8::from(job.has_key()));
                self.keys.extend(job.options.key.as_deref().map(|key| job.address.record(key)));
            }
        }
        self.jobs.extend(jobs);
    }
}

/// The settings of a call, see `publish.lua`.
fn settings(retention: Retention, position_ttl: Duration) -> Vec<u8> {
    let kept = retention.messages.max(1);
    let bounded = Retention::new(kept, retention.bytes.min(MAX_BYTES), retention.ttl);
    let lifetime = ttl(retention) + slack(retention);
    let position_ttl = position_ttl.max(lifetime + MARGIN);
    let mut settings = Vec::with_capacity(56);
    settings.put_slice(Epoch::from_random(random::bits()).as_str().as_bytes());
    settings.put_u32(kept);
    settings.put_u64(bounded.bytes as u64);
    settings.put_u64(0);
    settings.put_u64(bounded.share() as u64);
    // The head is an element, too.
    settings.put_u32(kept.saturating_add(kept / TRIM_SLACK).saturating_add(1));
    settings.put_u64(lifetime.as_millis() as u64);
    settings.put_u64(position_ttl.as_millis() as u64);
    settings
}
