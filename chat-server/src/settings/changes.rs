//! Which settings have changed since the start.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use clap::{ArgMatches, Command};

use super::file::Tables;

/// A hash of the value of each setting, by its name: secrets are not kept a second time.
#[derive(Debug, Default)]
pub(super) struct Values(BTreeMap<String, u64>);

impl Values {
    pub(super) fn new(command: &Command, matches: &ArgMatches, tables: &Tables) -> Self {
        let value = |arg: &clap::Arg| {
            let raw = matches.try_get_raw(arg.get_id().as_str()).ok().flatten();
            let raw: Vec<_> = raw.into_iter().flatten().collect();
            Some((arg.get_long()?.to_owned(), hash(&raw)))
        };
        let settings = command.get_arguments().filter_map(value);
        let rooms = ("rooms".to_owned(), hash(&format!("{:?}", tables.rooms)));
        let api_keys = ("api_keys".to_owned(), hash(&format!("{:?}", tables.api_keys)));
        let jwt_keys = ("jwt_keys".to_owned(), hash(&format!("{:?}", tables.jwt_keys)));
        Self(settings.chain([rooms, api_keys, jwt_keys]).collect())
    }

    /// The names of the settings that `other` has with another value.
    pub(super) fn changed<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a str> {
        let differs = |(name, value): &(&String, &u64)| other.0.get(*name) != Some(value);
        self.0.iter().filter(differs).map(|(name, _)| name.as_str())
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
