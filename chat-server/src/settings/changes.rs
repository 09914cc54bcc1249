//! Which settings are set, and which have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use super::file::Tables;
use super::files;
use super::tokens::JwtKeyTable;

/// A hash of the value of each setting, and of the contents of its files, by its name: secrets are not
/// kept a second time.
#[derive(Debug, Default)]
pub(crate) struct Values {
    hashes: BTreeMap<String, u64>,
    /// Those that have a value other than their default.
    given: BTreeSet<String>,
}

impl Values {
    pub(super) fn new(command: &Command, matches: &ArgMatches, tables: &Tables) -> Self {
        let value = |arg: &clap::Arg| {
            let raw = matches.try_get_raw(arg.get_id().as_str()).ok().flatten();
            let raw: Vec<_> = raw.into_iter().flatten().collect();
            let contents: Vec<_> = if names_files(arg) {
                raw.iter().map(|file| files::contents(Path::new(file))).collect()
            } else {
                Vec::new()
            };
            Some((arg.get_long()?.to_owned(), hash(&(raw, contents))))
        };
        let settings = command.get_arguments().filter_map(value);
        let rooms = ("rooms".to_owned(), hash(&format!("{:?}", tables.rooms)));
        let api_keys = ("api_keys".to_owned(), hash(&format!("{:?}", tables.api_keys)));
        let jwt_keys: Vec<_> = tables.jwt_keys.iter().map(JwtKeyTable::value).collect();
        let jwt_keys = ("jwt_keys".to_owned(), hash(&jwt_keys));
        let is_given = |arg: &&clap::Arg| {
            let source = matches.value_source(arg.get_id().as_str());
            source.is_some_and(|source| source != ValueSource::DefaultValue)
        };
        let given = command.get_arguments().filter(is_given);
        Self {
            hashes: settings.chain([rooms, api_keys, jwt_keys]).collect(),
            given: given.filter_map(|arg| arg.get_long().map(str::to_owned)).collect(),
        }
    }

    /// Whether a flag, a variable or the file has the setting.
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.given.contains(name)
    }

    /// The names of the settings that `other` has with another value.
    pub(crate) fn changed<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a str> {
        let differs = |(name, value): &(&String, &u64)| other.hashes.get(*name) != Some(value);
        self.hashes.iter().filter(differs).map(|(name, _)| name.as_str())
    }
}

fn names_files(arg: &clap::Arg) -> bool {
    let names = arg.get_value_names().unwrap_or_default();
    names.iter().any(|name| name == "FILE") && arg.get_id() != "config"
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
