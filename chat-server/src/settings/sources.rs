//! Where the values of settings come from, so that messages name a setting as it was written.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::Arg;

/// Flags and variables of the process, and the lines of its configuration file.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    arguments: Vec<OsString>,
    variables: BTreeMap<OsString, OsString>,
    file: Option<(PathBuf, BTreeMap<String, usize>)>,
    padded: Vec<&'static str>,
}

/// Why the value of a setting cannot be used.
#[derive(Debug)]
pub(crate) struct Invalid {
    setting: &'static str,
    value: Option<String>,
    why: String,
}

impl Invalid {
    /// A value, and why it cannot be used.
    pub(crate) fn new(setting: &'static str, value: impl ToString, why: impl Into<String>) -> Self {
        Self { setting, value: Some(value.to_string()), why: why.into() }
    }

    /// A value that is not shown: a secret, or one that says nothing.
    pub(crate) fn hidden(setting: &'static str, why: impl Into<String>) -> Self {
        Self { setting, value: None, why: why.into() }
    }

    pub(super) fn message(&self, sources: &Sources) -> String {
        let (name, why) = (sources.name(self.setting), &self.why);
        match &self.value {
            Some(value) => format!("invalid value '{}' for {name}: {why}", value.escape_debug()),
            None => format!("invalid value for {name}: {why}"),
        }
    }
}

impl Sources {
    pub(crate) fn of_process() -> Self {
        let (arguments, variables) = (std::env::args_os().collect(), std::env::vars_os().collect());
        Self { arguments, variables, ..Self::default() }
    }

    /// Takes note of the lines on which `file` has its keys.
    pub(super) fn add_file(&mut self, path: &Path, text: &str) {
        let table = toml::de::DeTable::parse(text);
        let keys = table.iter().flat_map(|table| table.get_ref().keys());
        let lines = keys.map(|key| (key.get_ref().to_string(), line(text, key.span().start)));
        self.file = Some((path.to_owned(), lines.collect()));
    }

    /// Takes note of secrets that had white space around them.
    pub(super) fn add_padded(&mut self, secrets: Vec<&'static str>) {
        self.padded = secrets;
    }

    /// A warning for each secret that is not what was written.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = String> {
        self.padded.iter().map(|setting| {
            format!("{}: white space around the secret is not part of it", self.name(setting))
        })
    }

    /// A setting as its value was written: `--port`, `PORT`, or `port (chat.toml, line 3)`.
    pub(crate) fn name(&self, setting: &str) -> String {
        let (flag, variable) = (format!("--{setting}"), variable(setting));
        if self.has_flag(&flag) {
            return flag;
        }
        if self.variables.contains_key(OsStr::new(&variable)) {
            return variable;
        }
        let of_file =
            self.file.as_ref().and_then(|(path, lines)| Some((path, lines.get(setting)?)));
        of_file.map_or(flag, |(path, line)| format!("{setting} ({}, line {line})", path.display()))
    }

    /// The arguments for clap: those of the process and, as flags, the variables that have white
    /// space around their values. A file of variables with the line ends of Windows gives some to
    /// each, and numbers and choices would not be read. Secrets are left as they are, since it is
    /// said when they are changed.
    pub(super) fn arguments<'a>(&self, known: impl Iterator<Item = &'a Arg>) -> Vec<OsString> {
        let mut arguments = self.arguments.clone();
        let padded = known.filter(|arg| !arg.is_hide_env_values_set()).filter_map(|arg| {
            let flag = format!("--{}", arg.get_long()?);
            let value = self.variables.get(arg.get_env()?)?.to_str()?;
            let is_padded = trim(value).len() < value.len();
            (is_padded && !self.has_flag(&flag)).then(|| format!("{flag}={}", trim(value)).into())
        });
        let after_program = arguments.len().min(1);
        arguments.splice(after_program..after_program, padded);
        arguments
    }

    /// A variable of these that is not a text.
    pub(super) fn not_utf8<'a>(&self, mut known: impl Iterator<Item = &'a Arg>) -> Option<String> {
        let is_text = |name| self.variables.get(name).is_none_or(|value| value.to_str().is_some());
        let variable = known.find_map(|arg| arg.get_env().filter(|name| !is_text(*name)))?;
        Some(variable.to_string_lossy().into_owned())
    }

    fn has_flag(&self, flag: &str) -> bool {
        self.arguments.iter().filter_map(|argument| argument.to_str()).any(|argument| {
            argument.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        })
    }
}

fn variable(setting: &str) -> String {
    setting.replace('-', "_").to_uppercase()
}

/// The number of the line that holds a byte of `text`.
pub(super) fn line(text: &str, byte: usize) -> usize {
    text.bytes().take(byte).filter(|byte| *byte == b'\n').count() + 1
}

/// What Rust says of a value, in the words of settings.
pub(super) fn in_words(error: &str) -> String {
    const NUMBER: &str = "expected a whole number without a unit";
    let words = [
        ("invalid digit found in string", NUMBER),
        ("cannot parse integer from empty string", NUMBER),
        ("number too large to fit in target type", "the number is too large"),
        ("number would be zero for non-zero type", "at least 1"),
        ("expected a nonzero usize", "expected a whole number, at least 1"),
        ("expected usize", NUMBER),
        ("expected u32", NUMBER),
        ("expected u16", "expected a whole number up to 65535"),
        ("expected a sequence", "expected a list in brackets"),
        ("invalid socket address syntax", "expected an address and a port: 127.0.0.1:9100"),
    ];
    words.iter().fold(error.to_owned(), |error, (rust, words)| error.replace(rust, words))
}

/// A value without what surrounds it by mistake: white space, and the mark with which some editors
/// begin a file.
pub(super) fn trim(value: &str) -> &str {
    value.trim_matches(|char: char| char.is_whitespace() || char == '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(arguments: &[&str], variables: &[(&str, &str)], file: &str) -> Sources {
        let mut sources = Sources {
            arguments: arguments.iter().map(Into::into).collect(),
            variables: variables.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            ..Sources::default()
        };
        sources.add_file(Path::new("chat.toml"), file);
        sources
    }

    #[test]
    fn setting_is_named_as_it_was_written() {
        let file = "\n# A port.\nport = 1\nmax-rooms = 2\n[[rooms]]\nname = \"*\"\n";
        let sources = sources(
            &["chat-server", "--port", "1", "--log=warn", "--max-roomsX=1"],
            &[("PORT", "1"), ("HOST", "")],
            file,
        );
        assert_eq!(sources.name("port"), "--port");
        assert_eq!(sources.name("log"), "--log");
        assert_eq!(sources.name("host"), "HOST");
        assert_eq!(sources.name("max-rooms"), "max-rooms (chat.toml, line 4)");
        assert_eq!(sources.name("rooms"), "rooms (chat.toml, line 5)");
        assert_eq!(sources.name("api-key"), "--api-key", "a default");
    }

    #[test]
    fn padded_variables_are_read_without_their_white_space() {
        let known = [
            Arg::new("port").long("port").env("PORT"),
            Arg::new("log").long("log").env("LOG"),
            Arg::new("host").long("host").env("HOST"),
            Arg::new("key").long("api-key").env("API_KEY").hide_env_values(true),
        ];
        let variables = [("PORT", " 1\r"), ("LOG", "warn "), ("HOST", "::1"), ("API_KEY", " x ")];
        let sources = sources(&["chat-server", "--log", "info", "token"], &variables, "");
        let arguments = sources.arguments(known.iter());
        assert_eq!(arguments, ["chat-server", "--port=1", "--log", "info", "token"]);
    }
}
