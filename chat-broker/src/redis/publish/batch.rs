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
    settings.put_u64(lifetime.as_millis() as u64);
    settings.put_u64(0);
    settings.put_u64(bounded.share() as u64);
    // The head is an element, too.
    settings.put_u32(kept.saturating_add(kept / TRIM_SLACK).saturating_add(1));
    settings.put_u64(position_ttl.as_millis() as u64);
    settings
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use redis::Arg;

    use super::*;
    use crate::publish::{PublishOptions, Receipt};
    use crate::redis::scripts::Scripts;

    const HOUR: Duration = Duration::from_secs(3600);

    fn kept(messages: u32) -> PublishOptions {
        PublishOptions::default().retention(Retention::new(messages, 1000, HOUR))
    }

    fn jobs(all: &[(&str, PublishOptions)]) -> (Vec<Job>, Vec<Receipt>) {
        all.iter()
            .map(|(room, options)| Job::sample(room, room.to_string(), options.clone()))
            .unzip()
    }

    fn batch(all: &[(&str, PublishOptions)]) -> Batch {
        Batch::new(jobs(all).0, |_, _| false)
    }

    fn reply(text: &str) -> Value {
        redis::parse_redis_value(text.as_bytes()).unwrap()
    }

    fn lacking() -> Value {
        reply("-NOSCRIPT No matching script\r\n")
    }

    /// The reply to a call with one topic, with this many publications.
    fn executed(count: u64) -> Value {
        let results = (1..=count)
            .flat_map(|offset| [&[2_u8] as &[u8], &offset.to_be_bytes(), b"abcdEF12"].concat());
        Value::BulkString(results.chain([0; 4]).collect())
    }

    /// The arguments of each command.
    fn commands(batch: &Batch, position_ttl: Duration) -> Vec<Vec<Vec<u8>>> {
        let mut pipeline = Pipeline::new();
        batch.add_to(&mut pipeline, &Scripts::new().publish, position_ttl);
        let bytes = |arg: Arg<&[u8]>| match arg {
            Arg::Simple(bytes) => Some(bytes.to_vec()),
            _ => None,
        };
        pipeline.cmd_iter().map(|command| command.args_iter().filter_map(bytes).collect()).collect()
    }

    fn kind() -> impl Strategy<Value = PublishOptions> {
        let key = |options: PublishOptions, has_key| match has_key {
            true => options.key("k"),
            false => options,
        };
        prop_oneof![
            Just(PublishOptions::default()),
            (1..4_u32, any::<bool>())
                .prop_map(move |(messages, has_key)| key(kept(messages), has_key)),
        ]
    }

    proptest! {
        #[test]
        fn each_publication_is_in_one_command_and_topics_keep_their_order(
            all in proptest::collection::vec((0..4_usize, kind()), 0..60),
        ) {
            let rooms = ["a", "b", "c", "d"];
            let all: Vec<_> = all.into_iter().map(|(room, options)| (rooms[room], options)).collect();
            let batch = batch(&all);
            let mut sent: HashMap<&str, Vec<usize>> = HashMap::new();
            for command in &batch.commands {
                match command {
                    Command::Publish(n) => {
                        prop_assert_eq!(all[*n].1.retention, None);
                        sent.entry(all[*n].0).or_default().push(*n);
                    }
                    Command::Keep { retention, topics } => {
                        let mut named = HashSet::new();
                        for topic in topics {
                            let room = all[topic.indexes[0]].0;
                            prop_assert!(named.insert(room), "a topic is in a call once");
                            for n in &topic.indexes {
                                prop_assert_eq!(&all[*n].1.retention, &Some(*retention));
                                prop_assert_eq!(all[*n].0, room);
                            }
                            sent.entry(room).or_default().extend(&topic.indexes);
                        }
                    }
                }
            }
            for room in rooms {
                let expected = (0..all.len()).filter(|n| all[*n].0 == room);
                let sent = sent.remove(room).unwrap_or_default();
                prop_assert!(expected.eq(sent), "each once, in their order");
            }
            prop_assert_eq!(commands(&batch, HOUR).len(), batch.len());
        }
    }

    #[test]
    fn publications_of_one_retention_share_a_call() {
        let (one, other) = (kept(1), kept(2));
        let ephemeral = PublishOptions::default();
        let sizes = |all: &[(&str, PublishOptions)]| -> Vec<usize> {
            let size = |command: &Command| match command {
                Command::Publish(_) => 0,
                Command::Keep { topics, .. } => {
                    topics.iter().map(|topic| topic.indexes.len()).sum()
                }
            };
            batch(all).commands.iter().map(size).collect()
        };
        assert_eq!(sizes(&[("a", one.clone()), ("b", one.clone()), ("a", one.clone())]), [3]);
        assert_eq!(sizes(&[("a", one.clone()), ("b", other.clone()), ("c", one.clone())]), [2, 1]);
        assert_eq!(
            sizes(&[("a", one.clone()), ("b", ephemeral.clone()), ("a", one.clone())]),
            [2, 0]
        );
        assert_eq!(sizes(&[("a", one.clone()), ("a", ephemeral), ("a", one.clone())]), [1, 0, 1]);
        assert_eq!(sizes(&[("a", one.clone()), ("a", other), ("a", one)]), [1, 1, 1]);
    }

    #[test]
    fn calls_have_the_keys_and_flags_of_their_topics() {
        let large = PublishOptions::default().retention(Retention::new(1000, 1000, HOUR));
        let small = PublishOptions::default().retention(Retention::new(1, 1000, HOUR));
        let call = |all: &[(&str, PublishOptions)], extends: bool, position_ttl| {
            let batch = Batch::new(jobs(all).0, |_, _| extends);
            let command = commands(&batch, position_ttl).remove(0);
            let (keys, rest) = command[3..].split_at(command[2][0] as usize - b'0' as usize);
            let text = |key: &Vec<u8>| String::from_utf8(key.clone()).unwrap();
            assert_eq!(rest.len(), 2 + all.len(), "settings, control, entries");
            (keys.iter().map(text).collect::<Vec<_>>().join(" "), rest[1].clone())
        };
        let plain = [("a", small.clone())];
        assert_eq!(call(&plain, false, HOUR), ("chat:{r.a}".to_owned(), vec![0, 1]));
        let with_position = "chat:{r.a} chat:{r.a}:position".to_owned();
        assert_eq!(call(&plain, true, HOUR), (with_position.clone(), vec![EXTENDS, 1]));
        assert_eq!(call(&plain, false, 2 * HOUR), (with_position, vec![OUTLIVES, 1]));
        assert_eq!(call(&[("ab", large)], false, HOUR).1, [IS_LARGE, 1]);
        let keyed = [("a", small.clone().key("x")), ("b", small.clone()), ("a", small)];
        let (keys, control) = call(&keyed, false, HOUR);
        assert_eq!(keys, "chat:{r.a} chat:{r.a}:k:x chat:{r.b}");
        assert_eq!(control, [HAS_KEYS, 2, 1, 0, 0, 1]);
    }

    #[test]
    fn overtaken_publications_are_not_resent() {
        // The second of `a` is in a call of its own, the first in one with `b` and `c`.
        let all = [("a", kept(1)), ("b", kept(1)), ("a", kept(2)), ("c", kept(1))];
        let unsent = |all: &[(&str, PublishOptions)], replies: Vec<Value>| -> Vec<bool> {
            batch(all).outcomes(replies).iter().map(Option::is_none).collect()
        };
        assert_eq!(unsent(&all, vec![lacking(), lacking()]), [true; 4]);
        assert_eq!(unsent(&all, vec![lacking(), executed(1)]), [false, true, false, true]);
        let before_ephemeral = [("a", kept(1)), ("b", kept(1)), ("a", PublishOptions::default())];
        assert_eq!(
            unsent(&before_ephemeral, vec![lacking(), reply(":1\r\n")]),
            [false, true, false]
        );
        let outcomes = batch(&all).outcomes(vec![lacking(), executed(1)]);
        assert_eq!(outcomes[0].as_ref().unwrap().as_ref().unwrap_err().code(), Some("NOSCRIPT"));
        assert_eq!(outcomes[2].as_ref().unwrap().as_ref().unwrap().position.unwrap().offset, 1);
    }

    #[test]
    fn error_of_a_call_is_that_of_its_publications() {
        let all = [("a", kept(1)), ("a", kept(1)), ("b", PublishOptions::default())];
        let outcomes = batch(&all).outcomes(vec![reply("-OOM full\r\n"), reply(":3\r\n")]);
        let is_error = |n: usize| outcomes[n].as_ref().unwrap().is_err();
        assert_eq!([is_error(0), is_error(1), is_error(2)], [true, true, false]);
        let outcomes = batch(&all).outcomes(vec![executed(2), reply(":3\r\n")]);
        let position = |n: usize| outcomes[n].as_ref().unwrap().as_ref().unwrap().position;
        assert_eq!(position(1).unwrap().offset, 2);
        assert_eq!(position(2), None);
    }
}
