//! Where the values of settings come from, so that messages name a setting as it was written.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use chat_core::printable;
use clap::{Arg, ArgMatches, Command};

use super::file::{File, TABLES, insert};
use super::value::trim;
use super::variables::{PREFIX, UNPREFIXED, is_service_link, near_alias, unknown};

/// Flags and variables of the process, and its configuration file.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    arguments: Vec<OsString>,
    variables: BTreeMap<OsString, OsString>,
    /// Variables of the process that are none of [`variables`](Self::variables): those of service
    /// links, and empty ones.
    dropped: Vec<String>,
    file: Option<File>,
    warnings: Vec<String>,
}

impl Sources {
    pub(crate) fn of_process() -> Self {
        Self::new(std::env::args_os().collect(), std::env::vars_os().collect())
    }

    pub(super) fn new(arguments: Vec<OsString>, variables: BTreeMap<OsString, OsString>) -> Self {
        let mut sources = Self { arguments, variables, ..Self::default() };
        sources.drop_service_links();
        sources
    }

    /// A service that is named `chat` must not keep the server from its start: its variables begin as
    /// settings do, and its `CHAT_PORT` has the name of one.
    fn drop_service_links(&mut self) {
        let is_link = |(name, value): (&OsString, &OsString)| {
            let (name, value) = (name.to_str()?, value.to_str()?);
            (name.starts_with(PREFIX) && is_service_link(name, value)).then(|| name.to_owned())
        };
        let links: Vec<_> = self.variables.iter().filter_map(is_link).collect();
        if !links.is_empty() {
            self.warnings.push(format!(
                "not read, since Kubernetes or Docker has set them for a service: {}; \
                 enableServiceLinks: false in the pod prevents that",
                links.join(", ")
            ));
        }
        self.remove(links);
    }

    /// An empty variable is no setting: `${CHAT_RATE:-}` in a file of Compose gives one where nothing
    /// was set. A secret of white space alone stays, and is refused: it was meant to be one.
    fn drop_empty(&mut self, command: &Command) {
        let is_empty = |name: &str, is_secret: bool| {
            let value = self.variables.get(OsStr::new(name)).and_then(|value| value.to_str());
            value.is_some_and(|value| value.is_empty() || (!is_secret && trim(value).is_empty()))
        };
        let empty = command.get_arguments().flat_map(|arg| {
            let bare = bare(arg.get_id().as_str());
            let prefixed = format!("{PREFIX}{bare}");
            let alias = UNPREFIXED.contains(&&*bare).then_some(bare);
            let names = [Some(prefixed), alias].into_iter().flatten();
            names.filter(|name| is_empty(name, arg.is_hide_env_values_set())).collect::<Vec<_>>()
        });
        let empty = empty.collect();
        self.remove(empty);
    }

    fn remove(&mut self, names: Vec<String>) {
        for name in &names {
            self.variables.remove(OsStr::new(name));
        }
        self.dropped.extend(names);
    }

    /// The command with the variable of each setting. One that had a name without the prefix in
    /// earlier releases, and has it still, is warned about, as is a misspelled alias.
    pub(super) fn with_variables(&mut self, command: Command) -> Command {
        self.drop_empty(&command);
        self.warn_of_misspelled_aliases();
        for arg in command.get_arguments() {
            let (variable, bare) =
                (self.variable(arg.get_id().as_str()), bare(arg.get_id().as_str()));
            if variable != bare && self.has(&bare) && !self.has(&variable) {
                self.warnings.push(format!("{bare} is not read: set {variable} instead"));
            }
        }
        command.mut_args(|arg| {
            let variable = self.variable(arg.get_id().as_str());
            // clap would read it from the process.
            if self.dropped.contains(&variable) { arg } else { arg.env(variable) }
        })
    }

    /// The command line.
    pub(super) fn flags(&self) -> &[OsString] {
        &self.arguments
    }

    fn warn_of_misspelled_aliases(&mut self) {
        let is_set = |alias: &str| self.has(alias) || self.has(&format!("{PREFIX}{alias}"));
        let warning = |name: &OsString| {
            let name = name.to_string_lossy();
            let alias = near_alias(&name).filter(|alias| !is_set(alias))?;
            Some(format!("{} is not read; did you mean {alias}?", printable(&name)))
        };
        let warnings: Vec<_> = self.variables.keys().filter_map(warning).collect();
        self.warnings.extend(warnings);
    }

    /// Refuses variables that begin as settings do, and are none: one that was meant to keep clients
    /// out must not be left out because of a typing error.
    ///
    /// # Errors
    /// Their names, each with that of the setting that is meant.
    pub(super) fn check_names(&self, command: &Command) -> Result<(), String> {
        let names: Vec<_> = self.variables.keys().map(|name| name.to_string_lossy()).collect();
        unknown(names.iter().map(AsRef::as_ref), command).map_or(Ok(()), Err)
    }

    /// The arguments for clap: those of the process and, as flags, the variables that have white
    /// space around their values. A file of variables with the line ends of Windows gives some to
    /// each, and choices would not be read. Secrets are left as they are, since a warning says that
    /// they are changed.
    pub(super) fn arguments(&self, command: &Command) -> Vec<OsString> {
        let mut arguments = self.arguments.clone();
        let known = command.get_arguments().filter(|arg| !arg.is_hide_env_values_set());
        insert(&mut arguments, known.filter_map(|arg| self.padded(arg)));
        arguments
    }

    fn padded(&self, arg: &Arg) -> Option<OsString> {
        let flag = format!("--{}", arg.get_long()?);
        let value = self.variables.get(arg.get_env()?)?.to_str()?;
        let is_padded = trim(value).len() < value.len();
        (is_padded && !self.has_flag(&flag)).then(|| format!("{flag}={}", trim(value)).into())
    }

    pub(super) fn add_file(&mut self, file: File) -> &File {
        self.file.insert(file)
    }

    /// Warns of each secret that is not what was written.
    pub(super) fn add_padded_secrets(&mut self, command: &Command, matches: &ArgMatches) {
        for arg in command.get_arguments().filter(|arg| arg.is_hide_env_values_set()) {
            let raw = matches.get_raw(arg.get_id().as_str()).into_iter().flatten();
            let is_padded = |raw: &str| !trim(raw).is_empty() && trim(raw).len() < raw.len();
            if raw.filter_map(OsStr::to_str).any(is_padded) {
                let name = self.name(arg.get_long().unwrap_or_default());
                let warning = format!("{name}: white space around the secret is not part of it");
                self.warnings.push(warning);
            }
        }
    }

    /// The configuration file, if one was read.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_ref().map(File::path)
    }

    /// What the user should know, beside errors.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// A setting as its value was written: `--port`, `CHAT_PORT`, or `port (chat.toml, line 3)`.
    pub(crate) fn name(&self, setting: &str) -> String {
        let (flag, variable) = (format!("--{setting}"), self.variable(setting));
        // Commands have a flag `--rooms` of their own.
        if self.has_flag(&flag) {
            return flag;
        }
        // A table, which no variable is for.
        if TABLES.contains(&setting) {
            return format!("[[{setting}]]");
        }
        if self.has(&variable) {
            return variable;
        }
        self.file.as_ref().and_then(|file| file.place(setting)).unwrap_or(flag)
    }

    /// A variable of these that is not a text.
    pub(super) fn not_utf8<'a>(&self, known: impl Iterator<Item = &'a Arg>) -> Option<String> {
        known.map(|arg| self.variable(arg.get_id().as_str())).find(|variable| {
            self.variables.get(OsStr::new(variable)).is_some_and(|value| value.to_str().is_none())
        })
    }

    /// The variable of a setting.
    fn variable(&self, setting: &str) -> String {
        let bare = bare(setting);
        let variable = format!("{PREFIX}{bare}");
        let is_alias = UNPREFIXED.contains(&&*bare) && self.has(&bare) && !self.has(&variable);
        if is_alias { bare } else { variable }
    }

    fn has(&self, variable: &str) -> bool {
        self.variables.contains_key(OsStr::new(variable))
    }

    fn has_flag(&self, flag: &str) -> bool {
        self.arguments.iter().filter_map(|argument| argument.to_str()).any(|argument| {
            argument.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        })
    }
}

/// The variable of a setting without the prefix.
fn bare(setting: &str) -> String {
    setting.replace('-', "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(arguments: &[&str], variables: &[(&str, &str)], file: &str) -> Sources {
        Sources {
            arguments: arguments.iter().map(Into::into).collect(),
            variables: variables.iter().map(|(name, value)| (name.into(), value.into())).collect(),
            file: File::parse(Path::new("chat.toml"), file).ok(),
            ..Sources::default()
        }
    }

    fn command() -> Command {
        let arg = |id: &'static str, long: &'static str| Arg::new(id).long(long);
        let key = arg("api_key", "api-key").hide_env_values(true);
        Command::new("chat-server").args([arg("port", "port"), arg("log", "log"), key])
    }

    #[test]
    fn setting_is_named_as_it_was_written() {
        let file = "\n# A port.\nport = 1\nmax-rooms = 2\n[[rooms]]\nname = \"*\"\n";
        let sources = sources(
            &["chat-server", "--port", "1", "--log=warn", "--max-roomsX=1"],
            &[
                ("PORT", "1"),
                ("HOST", ""),
                ("CHAT_RATE", "1"),
                ("REDIS_URL", "a"),
                ("CHAT_REDIS_URL", "b"),
            ],
            file,
        );
        for (setting, name) in [
            ("port", "--port"),
            ("log", "--log"),
            ("host", "HOST"),
            ("rate", "CHAT_RATE"),
            ("redis-url", "CHAT_REDIS_URL"),
            ("max-rooms", "max-rooms (chat.toml, line 4)"),
            ("api-key", "--api-key"),
        ] {
            assert_eq!(sources.name(setting), name);
        }
    }

    #[test]
    fn padded_variables_are_read_without_their_white_space() {
        let variables = [("PORT", " 1\r"), ("CHAT_LOG", "warn "), ("API_KEY", " x ")];
        let mut sources = sources(&["chat-server", "--log", "info", "token"], &variables, "");
        let command = sources.with_variables(command());
        let arguments = sources.arguments(&command);
        assert_eq!(arguments, ["chat-server", "--port=1", "--log", "info", "token"]);
    }

    #[test]
    fn port_of_a_service_link_is_no_setting() {
        let variables = |variables: &[(&str, &str)]| {
            variables.iter().map(|(name, value)| (name.into(), value.into())).collect()
        };
        let link = ("CHAT_PORT", "tcp://10.0.0.1:80");
        let mut sources = Sources::new(Vec::new(), variables(&[link]));
        let has_variable = |sources: &mut Sources| {
            let command = sources.with_variables(command());
            let port = command.get_arguments().find(|arg| arg.get_long() == Some("port")).unwrap();
            port.get_env().map(|name| name.to_str().unwrap().to_owned())
        };
        assert_eq!(has_variable(&mut sources), None);
        assert!(sources.warnings()[0].contains("CHAT_PORT;"), "{:?}", sources.warnings());
        let mut sources = Sources::new(Vec::new(), variables(&[link, ("PORT", "1")]));
        assert_eq!(has_variable(&mut sources), Some("PORT".to_owned()));
    }

    #[test]
    fn empty_variable_is_no_setting() {
        let variables =
            [("CHAT_PORT", " "), ("PORT", "1"), ("CHAT_LOG", ""), ("CHAT_API_KEY", " ")];
        let mut sources = sources(&[], &variables, "log = \"warn\"");
        sources.with_variables(command());
        let names = ["port", "log", "api-key"].map(|setting| sources.name(setting));
        assert_eq!(names, ["PORT", "log (chat.toml, line 1)", "CHAT_API_KEY"]);
    }

    #[test]
    fn variable_without_prefix_is_warned_about_unless_it_is_read() {
        let warnings = |variables: &[(&str, &str)]| {
            let mut sources = sources(&[], variables, "");
            sources.with_variables(command());
            sources.warnings().to_vec()
        };
        assert_eq!(warnings(&[("LOG", "warn")]), ["LOG is not read: set CHAT_LOG instead"]);
        assert_eq!(warnings(&[("PORT", "1")]), [""; 0], "an alias");
        assert_eq!(warnings(&[("LOG", "a"), ("CHAT_LOG", "b")]), [""; 0]);
        assert_eq!(warnings(&[("PORT", "1"), ("CHAT_PORT", "2")]), [""; 0]);
        assert_eq!(warnings(&[("PROT", "1")]), ["PROT is not read; did you mean PORT?"]);
        assert_eq!(warnings(&[("PROT", "1"), ("PORT", "1")]), [""; 0], "of another program");
    }

    #[cfg(unix)]
    #[test]
    fn name_that_is_not_utf8_is_refused() {
        use std::os::unix::ffi::OsStringExt;

        let name = OsString::from_vec(b"CHAT_LO\xc9".to_vec());
        let mut sources = Sources::new(Vec::new(), [(name, "x".into())].into());
        let command = sources.with_variables(command());
        let error = sources.check_names(&command).unwrap_err();
        assert!(error.starts_with("CHAT_LO\u{fffd}: no such setting"), "{error}");
    }
}
