//! `chat-server config`: a configuration file with every setting.

use std::fmt::Write;

use clap::{Arg, ArgAction, Command, CommandFactory};

use super::Cli;
use super::api::ApiKeyTable;
use super::rooms::RoomClass;

/// The longest line of a comment.
const WIDTH: usize = 100;

const TOP: &str = "\
# Settings of chat-server, which reads this file with --config FILE or CHAT_CONFIG=FILE.
#
# Each setting stands at its default, behind a #: remove the # from those that you change. \"\" and [] are
# no value. A flag wins over a variable, and a variable over this file. SIGHUP reads the file again.
";

const ROOMS: &str = "
# Rooms that differ in what they keep. The first table whose name matches counts.

#[[rooms]]
";

/// An example that counts would be a key that everybody knows.
const JWT_KEYS: &str = "
# Keys of tokens that end, such as the former one while clients receive tokens of the next. A table has
# one of secret, secret-file, public-key and jwks-file.

#[[jwt_keys]]
#secret-file = \"/etc/chat/former-secret\"
#until = \"2027-06-30\"
";

const API_KEYS: &str = "
# Keys for backends: chat-server key makes a key, and prints its table.

#[[api_keys]]
";

/// An example in the place of a default, which as an empty list would be refused.
const ROOMS_OF_KEY: &[(&str, &str)] = &[("rooms", "shop-*")];

/// Every setting at its default, in a comment.
pub(super) fn config_file() -> String {
    let mut file = TOP.to_owned();
    let command = Cli::command();
    let settings = command.get_arguments().filter(|arg| arg.get_help_heading().is_some());
    let mut heading = None;
    for arg in settings {
        if arg.get_help_heading() != heading {
            heading = arg.get_help_heading();
            let _ = writeln!(file, "\n# ---- {} ----", heading.unwrap_or_default());
        }
        file.push_str(&setting(arg, &default(arg)));
    }
    // Tables are last: what follows them would belong to them.
    for (top, table, examples) in [
        (ROOMS, RoomClass::command(), RoomClass::REQUIRED),
        (API_KEYS, ApiKeyTable::command(), &[ApiKeyTable::REQUIRED, ROOMS_OF_KEY].concat()),
    ] {
        file.push_str(top);
        file.push_str(&keys(&table, examples));
    }
    file + JWT_KEYS
}

fn keys(table: &Command, examples: &[(&str, &str)]) -> String {
    let key = |arg: &Arg| {
        let name = arg.get_long().unwrap_or_default();
        let example = examples.iter().find(|(key, _)| *key == name);
        setting(arg, &example.map_or(default(arg), |(_, example)| value(arg, example)))
    };
    table.get_arguments().map(key).collect()
}

fn setting(arg: &Arg, value: &str) -> String {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let choices: Vec<_> =
        arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    let choices =
        if choices.is_empty() { String::new() } else { format!(": {}", choices.join(", ")) };
    let comment = comment(&format!("{help}{choices}"));
    format!("\n{comment}#{} = {value}\n", arg.get_long().unwrap_or_default())
}

/// The value that counts without one, in TOML.
fn default(arg: &Arg) -> String {
    match arg.get_default_values() {
        [default] => value(arg, &default.to_string_lossy()),
        _ if is_list(arg) => "[]".to_owned(),
        _ => "\"\"".to_owned(),
    }
}

fn value(arg: &Arg, text: &str) -> String {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty();
    let value = if is_number { text.to_owned() } else { format!("\"{text}\"") };
    if is_list(arg) { format!("[{value}]") } else { value }
}

fn is_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// The lines of a comment.
fn comment(text: &str) -> String {
    let mut lines = String::new();
    let mut line = "#".to_owned();
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            lines = lines + &line + "\n";
            line = "#".to_owned();
        }
        line = line + " " + word;
    }
    lines + &line + "\n"
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;

    /// The lines of the file without the # before settings.
    fn uncommented() -> String {
        let line = |line: &str| match line.strip_prefix('#') {
            Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => {
                format!("{setting}\n")
            }
            _ => format!("{line}\n"),
        };
        config_file().lines().map(line).collect()
    }

    #[test]
    fn written_file_has_every_setting_at_its_default() {
        let default = Settings::of_file("", &[]).unwrap().server().unwrap();
        let written = Settings::of_file(&config_file(), &[]).unwrap().server().unwrap();
        assert_eq!(format!("{written:?}"), format!("{default:?}"));

        let text = uncommented();
        let (settings, tables) = text.split_once("[[rooms]]").unwrap();
        let of_settings = Settings::of_file(settings, &[]).unwrap().server().unwrap();
        assert_eq!(format!("{of_settings:?}"), format!("{default:?}"));
        let with_tables = Settings::of_file(&text, &[]).unwrap().server().unwrap();
        assert_eq!(with_tables.api_keys.len(), 1);

        let command = Cli::command();
        let settings_of_flags =
            command.get_arguments().filter(|arg| arg.get_help_heading().is_some());
        for arg in settings_of_flags {
            let key = format!("\n{} = ", arg.get_long().unwrap());
            assert_eq!(settings.matches(&key).count(), 1, "{key}");
        }
        assert!(tables.contains("history-ttl = \"\"") && tables.contains("until = \"\""));
        assert!(tables.contains("\n[[jwt_keys]]\nsecret-file = "));
        assert!(config_file().lines().all(|line| line.len() <= WIDTH + 10), "{}", config_file());
    }
}
