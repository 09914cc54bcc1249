//! The scripts that Redis runs, and the names it knows them by. `redis::Script` runs one script for
//! each round trip; here several calls go in one pipeline.

use std::sync::OnceLock;

use redis::aio::ConnectionLike;
use redis::{Pipeline, RedisResult, ToRedisArgs};

/// All scripts.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) publish: Script,
    pub(super) position: Script,
    pub(super) recover: Script,
    pub(super) history: Script,
    pub(super) end_epoch: Script,
    pub(super) enter: Script,
    pub(super) leave: Script,
    pub(super) reap: Script,
    pub(super) reconcile: Script,
    pub(super) renew: Script,
    pub(super) occupancy: Script,
    pub(super) rooms: Script,
    pub(super) secret: Script,
    pub(super) set_record: Script,
    pub(super) read_records: Script,
    pub(super) restore_records: Script,
}

/// A script. Its name is a hash of its text, the same in every Redis; it is learned when
/// the script is stored for the first time.
#[derive(Debug)]
pub(super) struct Script {
    file: &'static str,
    text: &'static str,
    name: OnceLock<String>,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            publish: Script::new("publish.lua", include_str!("publish.lua")),
            position: Script::new(
                "position.lua",
                concat!(include_str!("log.lua"), include_str!("position.lua")),
            ),
            recover: Script::new(
                "recover.lua",
                concat!(include_str!("log.lua"), include_str!("recover.lua")),
            ),
            history: Script::new(
                "history.lua",
                concat!(include_str!("log.lua"), include_str!("history.lua")),
            ),
            end_epoch: Script::new(
                "end_epoch.lua",
                concat!(include_str!("log.lua"), include_str!("end_epoch.lua")),
            ),
            enter: Script::new(
                "enter.lua",
                concat!(include_str!("change.lua"), include_str!("enter.lua")),
            ),
            leave: Script::new(
                "leave.lua",
                concat!(
                    include_str!("change.lua"),
                    include_str!("settle.lua"),
                    include_str!("leave.lua")
                ),
            ),
            reap: Script::new(
                "reap.lua",
                concat!(
                    include_str!("change.lua"),
                    include_str!("settle.lua"),
                    include_str!("reap.lua")
                ),
            ),
            reconcile: Script::new(
                "reconcile.lua",
                concat!(
                    include_str!("change.lua"),
                    include_str!("settle.lua"),
                    include_str!("reconcile.lua")
                ),
            ),
            renew: Script::new("renew.lua", include_str!("renew.lua")),
            occupancy: Script::new("occupancy.lua", include_str!("occupancy.lua")),
            rooms: Script::new("rooms.lua", include_str!("rooms.lua")),
            secret: Script::new("secret.lua", include_str!("secret.lua")),
            set_record: Script::new(
                "set_record.lua",
                concat!(include_str!("records.lua"), include_str!("set_record.lua")),
            ),
            read_records: Script::new(
                "read_records.lua",
                concat!(include_str!("records.lua"), include_str!("read_records.lua")),
            ),
            restore_records: Script::new(
                "restore_records.lua",
                concat!(include_str!("records.lua"), include_str!("restore_records.lua")),
            ),
        }
    }

    pub(super) fn all(&self) -> [&Script; 16] {
        let Self { publish, position, recover, history, end_epoch, .. } = self;
        let Self { enter, leave, reap, reconcile, renew, occupancy, rooms, .. } = self;
        let Self { secret, set_record, read_records, restore_records, .. } = self;
        [
            publish,
            position,
            recover,
            history,
            end_epoch,
            enter,
            leave,
            reap,
            reconcile,
            renew,
            occupancy,
            rooms,
            secret,
            set_record,
            read_records,
            restore_records,
        ]
    }

    /// The file of the script that is called by this name or text.
    pub(super) fn file_of(&self, called: &str) -> Option<&'static str> {
        let is_called = |script: &&Script| {
            script.text == called || script.name.get().is_some_and(|name| name == called)
        };
        self.all().into_iter().find(is_called).map(Script::file)
    }

    /// Stores them all in Redis.
    pub(super) async fn load(&self, connection: &mut impl ConnectionLike) -> RedisResult<()> {
        let mut commands = Pipeline::new();
        for script in self.all() {
            commands.cmd("SCRIPT").arg("LOAD").arg(script.text);
        }
        let names: Vec<String> = commands.query_async(connection).await?;
        for (script, name) in self.all().into_iter().zip(names) {
            // It can only have been set to the same.
            let _ = script.name.set(name);
        }
        Ok(())
    }
}

impl Script {
    fn new(file: &'static str, text: &'static str) -> Self {
        Self { file, text, name: OnceLock::new() }
    }

    pub(super) fn file(&self) -> &'static str {
        self.file
    }

    #[cfg(test)]
    pub(super) fn text(&self) -> &'static str {
        self.text
    }

    /// Adds a call to `commands`; the arguments follow.
    pub(super) fn call<'a>(
        &self,
        commands: &'a mut Pipeline,
        keys: &[impl ToRedisArgs],
    ) -> &'a mut Pipeline {
        match self.name.get() {
            Some(name) => commands.cmd("EVALSHA").arg(name),
            // No node has loaded it yet.
            None => commands.cmd("EVAL").arg(self.text),
        };
        commands.arg(keys.len()).arg(keys)
    }
}
