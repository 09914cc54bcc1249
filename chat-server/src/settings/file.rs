//! The configuration file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, Parser};
use toml::de::{DeTable, DeValue};

use super::Cli;
use super::api::ApiKeyTable;
use super::rooms::RoomClass;
use super::tokens::JwtKeyTable;
use super::value::{none_of, refusal, trim};
use super::variables::{did_you_mean, nearest};

/// A file, as text: clap reads the values.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    entries: Vec<Entry>,
    /// The tables, by one of [`TABLES`].
    tables: BTreeMap<&'static str, Vec<Vec<Entry>>>,
}

/// What stands in tables of a name of their own: it has no flag and no variable.
pub(super) const TABLES: [&str; 3] = ["rooms", "api_keys", "jwt_keys"];

/// Keys of tables whose empty value looks like a restriction and would be none, and what to write.
const NEVER_EMPTY: [(&str, &str, &str); 2] = [
    ("rooms", "name", "expected a pattern of names; * is for all rooms"),
    (
        "api_keys",
        "rooms",
        "expected a pattern at least; without this key of the table, it is for all",
    ),
];

/// The tables of a file.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) rooms: Vec<RoomClass>,
    pub(super) api_keys: Vec<ApiKeyTable>,
    pub(super) jwt_keys: Vec<JwtKeyTable>,
}

#[derive(Debug)]
struct Entry {
    key: String,
    line: usize,
    values: Vec<String>,
    is_list: bool,
    /// A list of which at least one value is a number.
    has_number_in_list: bool,
}

/// What is wrong with a list where a setting has one value, or with what is in a list.
const NO_LIST: &str = "expected one value, and no list in brackets";
const NO_NUMBERS: &str = "expected a list of texts in quotes, without numbers";

impl File {
    /// # Errors
    /// What is wrong, with the line.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, String> {
        let wrong = |line, why: &str| format!("{}, line {line}{why}", path.display());
        let table = DeTable::parse(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            wrong(line(text, start), &format!(": {}", error.message()))
        })?;
        let mut file = Self { path: path.to_owned(), entries: Vec::new(), tables: BTreeMap::new() };
        let entries = |table: &DeTable<'_>| {
            let entries = table.iter().map(|(key, value)| {
                let line = line(text, key.span().start);
                Entry::new(key.get_ref(), line, value.get_ref()).ok_or_else(|| {
                    wrong(
                        line,
                        &format!(
                            ", {}: {}",
                            key.get_ref(),
                            expected(key.get_ref(), value.get_ref())
                        ),
                    )
                })
            });
            entries.collect::<Result<Vec<_>, _>>()
        };
        let mut settings = table.into_inner();
        for name in TABLES {
            let Some((key, tables)) = settings.remove_entry(name) else { continue };
            let expected =
                || wrong(line(text, key.span().start), &format!(", {name}: expected [[{name}]]"));
            let tables = tables.get_ref().as_array().ok_or_else(expected)?.iter();
            let tables =
                tables.map(|table| entries(table.get_ref().as_table().ok_or_else(expected)?));
            file.tables.insert(name, tables.collect::<Result<_, _>>()?);
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
                .ok_or_else(|| self.wrong(entry, &unknown("setting", entry, &command)))?;
            let id = setting.get_id().clone();
            if entry.is_empty() || is_given(given, id.as_str()) {
                continue;
            }
            entry.check_list(takes_list(setting)).map_err(|why| self.wrong(entry, why))?;
            let is_secret = setting.is_hide_env_values_set();
            if entry.is_list {
                command = command.mut_arg(&id, |arg: Arg| arg.value_delimiter(None));
            }
            // White space around a secret is removed later, with a warning.
            let value = |value| if is_secret { value } else { trim(value) };
            let flags = entry.values.iter().map(|text| format!("--{}={}", entry.key, value(text)));
            insert(arguments, flags.map(OsString::from));
        }
        Ok(command)
    }

    pub(super) fn tables(&self) -> Result<Tables, String> {
        Ok(Tables {
            rooms: self.read_tables("rooms", RoomClass::REQUIRED)?,
            api_keys: self.read_tables("api_keys", ApiKeyTable::REQUIRED)?,
            jwt_keys: self.read_tables("jwt_keys", &[])?,
        })
    }

    /// `required` are the keys that a table must have, each with a value that can be read.
    fn read_tables<T: Parser>(
        &self,
        name: &'static str,
        required: &[(&str, &str)],
    ) -> Result<Vec<T>, String> {
        let tables = self.tables.get(name).into_iter().flatten();
        tables.map(|entries| self.read_table(name, entries, required)).collect()
    }

    fn read_table<T: Parser>(
        &self,
        name: &str,
        entries: &[Entry],
        required: &[(&str, &str)],
    ) -> Result<T, String> {
        let command = T::command();
        for entry in entries {
            self.check_entry(name, entry, &command)?;
        }
        let is_required = |entry: &Entry| required.iter().any(|(key, _)| *key == entry.key);
        let entries: Vec<_> =
            entries.iter().filter(|entry| is_required(entry) || !entry.is_empty()).collect();
        // One by one, for the line of the one that is wrong.
        for entry in &entries {
            let others = required.iter().filter(|(key, _)| *key != entry.key);
            let others = others.map(|(key, value)| format!("--{key}={value}"));
            T::try_parse_from(entry.arguments().chain(others)).map_err(|error| {
                let why = refusal(&error).or_else(|| none_of(&error));
                let why = why.unwrap_or_else(|| unknown("key", entry, &command));
                let hint = setting_hint(entry, &command).unwrap_or_default();
                self.wrong(entry, &format!("{why}, in [[{name}]]{hint}"))
            })?;
        }
        T::try_parse_from(entries.iter().flat_map(|entry| entry.arguments())).map_err(|_| {
            let is_missing = |(key, _): &&(&str, _)| entries.iter().all(|entry| entry.key != *key);
            let missing = required.iter().find(is_missing).map_or("a key", |(key, _)| key);
            let line = entries.first().map_or(0, |entry| entry.line);
            format!("{}, line {line}, {name}: {missing} is missing", self.path.display())
        })
    }

    /// What the parser of a table's values does not see: the form of a value in the file.
    fn check_entry(&self, name: &str, entry: &Entry, command: &Command) -> Result<(), String> {
        let wrong = |why: &str| self.wrong(entry, &format!("{why}, in [[{name}]]"));
        let is_this = |(table, key, _): &&(&str, &str, &str)| *table == name && *key == entry.key;
        if let Some((_, _, why)) = NEVER_EMPTY.iter().find(is_this).filter(|_| entry.is_blank()) {
            return Err(wrong(why));
        }
        let mut known = command.get_arguments();
        let Some(key) = known.find(|arg| arg.get_long() == Some(&entry.key)) else { return Ok(()) };
        entry.check_list(takes_list(key)).map_err(wrong)
    }

    fn wrong(&self, entry: &Entry, why: &str) -> String {
        let Entry { key, line, .. } = entry;
        format!("{}, line {line}, {key}: {why}", self.path.display())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the file has a setting: `port (chat.toml, line 3)`.
    pub(super) fn place(&self, setting: &str) -> Option<String> {
        let entry = self.entries.iter().find(|entry| entry.key == setting)?;
        Some(format!("{setting} ({}, line {})", self.path.display(), entry.line))
    }
}

/// Why no argument of `command` is named as the entry is.
fn unknown(what: &str, entry: &Entry, command: &Command) -> String {
    let known = command.get_arguments().filter_map(Arg::get_long);
    let meant = did_you_mean(&entry.key, known.filter(|known| *known != "config"));
    format!("there is no such {what}{meant}")
}

/// For a key that is none of the table's nor like one, and is a setting or like one: it was added at the end
/// of the file.
fn setting_hint(entry: &Entry, table: &Command) -> Option<String> {
    let of_table = table.get_arguments().filter_map(Arg::get_long);
    if nearest(&entry.key, of_table).is_some() {
        return None;
    }
    let command = Cli::command();
    let settings = command.get_arguments().filter_map(Arg::get_long);
    let setting = nearest(&entry.key, settings.filter(|setting| *setting != "config"))?;
    Some(format!("; if you mean the setting {setting}: settings stand before the first table"))
}

fn takes_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// Why a value is none that a setting has.
fn expected(key: &str, value: &DeValue<'_>) -> String {
    match value {
        DeValue::Boolean(_) => {
            "expected \"on\" or \"off\", in quotes, of a setting that has these".to_owned()
        }
        // Of a table, or of several.
        DeValue::Array(_) | DeValue::Table(_) if TABLES.contains(&&*key.replace('-', "_")) => {
            format!("there is no such table; did you mean [[{}]]?", key.replace('-', "_"))
        }
        DeValue::Array(list) if list.iter().any(|value| value.get_ref().is_table()) => {
            match nearest(key, TABLES.into_iter()) {
                Some(table) => format!("there is no such table; did you mean [[{table}]]?"),
                None => "there is no such table".to_owned(),
            }
        }
        DeValue::Table(_) => {
            "there is no such table; settings stand above all tables, such as port = 8080"
                .to_owned()
        }
        _ => "expected a text in quotes, a whole number, or a list of them in brackets".to_owned(),
    }
}

impl Entry {
    /// `None` for a value that no setting has.
    fn new(key: &str, line: usize, value: &DeValue<'_>) -> Option<Self> {
        let single = |value: &DeValue<'_>| match value {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Integer(number) => Some(number.to_string()),
            _ => None,
        };
        let is_number = |value: &DeValue<'_>| matches!(value, DeValue::Integer(_));
        let (values, is_list, has_number_in_list) = match value {
            DeValue::Array(list) => {
                let mut values = list.iter().map(|value| value.get_ref());
                let texts = values.clone().map(single).collect::<Option<_>>()?;
                (texts, true, values.any(is_number))
            }
            value => (vec![single(value)?], false, false),
        };
        Some(Self { key: key.to_owned(), line, values, is_list, has_number_in_list })
    }

    /// A number in a list is a mistake: all that may be several are texts.
    fn check_list(&self, takes_list: bool) -> Result<(), &'static str> {
        match (self.is_list, takes_list) {
            (true, false) => Err(NO_LIST),
            (true, true) if self.has_number_in_list => Err(NO_NUMBERS),
            _ => Ok(()),
        }
    }

    /// Whether no value has more than white space.
    fn is_blank(&self) -> bool {
        self.values.iter().all(|value| trim(value).is_empty())
    }

    /// Whether it is the text, or the list, that stands for no value.
    fn is_empty(&self) -> bool {
        match &*self.values {
            [] => true,
            [text] => text.is_empty(),
            _ => false,
        }
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
