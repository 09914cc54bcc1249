//! The configuration file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, Parser};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::rooms::RoomClass;
use super::value::refusal;

/// A file, as text: clap reads the values.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    entries: Vec<Entry>,
    /// The tables `[[rooms]]`.
    rooms: Vec<Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    key: String,
    line: usize,
    values: Vec<String>,
    is_list: bool,
}

impl File {
    /// # Errors
    /// What is wrong, with the line.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, String> {
        let wrong = |line, why: &str| format!("{}, line {line}{why}", path.display());
        let table = DeTable::parse(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            wrong(line(text, start), &format!(": {}", error.message()))
        })?;
        let mut file = Self { path: path.to_owned(), entries: Vec::new(), rooms: Vec::new() };
        let entries = |table: &DeTable<'_>| {
            let entries = table.iter().map(|(key, value)| {
                let line = line(text, key.span().start);
                Entry::new(key.get_ref(), line, value.get_ref())
                    .ok_or_else(|| wrong(line, &format!(", {}: {EXPECTED}", key.get_ref())))
            });
            entries.collect::<Result<Vec<_>, _>>()
        };
        let mut settings = table.into_inner();
        if let Some((key, classes)) = settings.remove_entry("rooms") {
            let expected = || wrong(line(text, key.span().start), ", rooms: expected [[rooms]]");
            for class in
                classes.get_ref().as_array().ok_or_else(expected)?.iter().map(Spanned::get_ref)
            {
                file.rooms.push(entries(class.as_table().ok_or_else(expected)?)?);
            }
        }
        file.entries = entries(&settings)?;
        Ok(file)
    }

    /// Adds the values of settings that `given` has from no other source to the arguments. Returns
    /// the command to parse them: a list in the file is not split at the commas in it.
    pub(super) fn add_to(
        &self,
        arguments: &mut Vec<OsString>,
        mut command: Command,
        given: &ArgMatches,
    ) -> Result<Command, String> {
        for entry in &self.entries {
            let setting = command
                .get_arguments()
                .find(|arg| arg.get_long() == Some(&entry.key) && *arg.get_id() != "config")
                .ok_or_else(|| self.unknown(entry))?;
            let id = setting.get_id().clone();
            if is_given(given, id.as_str()) {
                continue;
            }
            if entry.is_list {
                command = command.mut_arg(&id, |arg: Arg| arg.value_delimiter(None));
            }
            insert(arguments, entry.arguments().map(OsString::from));
        }
        Ok(command)
    }

    pub(super) fn room_classes(&self) -> Result<Vec<RoomClass>, String> {
        self.rooms.iter().map(|class| self.room_class(class)).collect()
    }

    fn room_class(&self, entries: &[Entry]) -> Result<RoomClass, String> {
        // One by one, for the line of the one that is wrong.
        for entry in entries {
            let name = (entry.key != "name").then(|| "--name=".to_owned());
            RoomClass::try_parse_from(entry.arguments().chain(name)).map_err(|error| {
                let why = refusal(&error).unwrap_or_else(|| "there is no such key".to_owned());
                self.wrong(entry, &format!("{why}, in [[rooms]]"))
            })?;
        }
        RoomClass::try_parse_from(entries.iter().flat_map(Entry::arguments)).map_err(|_| {
            let line = entries.first().map_or(0, |entry| entry.line);
            format!("{}, line {line}, rooms: a name is missing", self.path.display())
        })
    }

    fn unknown(&self, entry: &Entry) -> String {
        self.wrong(entry, "there is no such setting")
    }

    fn wrong(&self, entry: &Entry, why: &str) -> String {
        let Entry { key, line, .. } = entry;
        format!("{}, line {line}, {key}: {why}", self.path.display())
    }

    /// Where the file has a setting: `port (chat.toml, line 3)`.
    pub(super) fn place(&self, setting: &str) -> Option<String> {
        let entry = self.entries.iter().find(|entry| entry.key == setting)?;
        Some(format!("{setting} ({}, line {})", self.path.display(), entry.line))
    }
}

const EXPECTED: &str = "expected a text in quotes, a whole number, or a list of them in brackets";

impl Entry {
    /// `None` for a value that no setting has.
    fn new(key: &str, line: usize, value: &DeValue<'_>) -> Option<Self> {
        let single = |value: &DeValue<'_>| match value {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Integer(number) => Some(number.to_string()),
            _ => None,
        };
        let (values, is_list) = match value {
            DeValue::Array(list) => {
                (list.iter().map(|value| single(value.get_ref())).collect::<Option<_>>()?, true)
            }
            value => (vec![single(value)?], false),
        };
        Some(Self { key: key.to_owned(), line, values, is_list })
    }

    fn arguments(&self) -> impl Iterator<Item = String> {
        self.values.iter().map(|value| format!("--{}={value}", self.key))
    }
}

/// Puts flags between the name of the program and what may be a subcommand.
pub(super) fn insert(arguments: &mut Vec<OsString>, flags: impl IntoIterator<Item = OsString>) {
    let after_program = arguments.len().min(1);
    arguments.splice(after_program..after_program, flags);
}

/// Whether a setting has a value of a flag or a variable.
fn is_given(matches: &ArgMatches, id: &str) -> bool {
    let source = matches.value_source(id);
    matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
}

/// The number of the line that holds a byte of `text`.
fn line(text: &str, byte: usize) -> usize {
    text.bytes().take(byte).filter(|byte| *byte == b'\n').count() + 1
}
