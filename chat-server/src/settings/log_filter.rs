//! What `--log` may say, and what it says of modules that do not exist.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::value::{shortened, trim};
use super::variables::did_you_mean;

/// The crates that write lines. Their modules follow after `::`.
const CRATES: [&str; 5] =
    ["chat_server", "chat_broker", "chat_transport", "tungstenite", "tokio_tungstenite"];

/// Reads a filter of the log. `EnvFilter` would take a level that does not exist for the name of a
/// module, and a missing one for all levels.
pub(super) fn log_filter(text: &str) -> Result<String, String> {
    let filter = without_spaces(text);
    for directive in filter.split(',').filter(|directive| !directive.is_empty()) {
        let level = directive.rsplit('=').next().unwrap_or(directive);
        let is_level = !level.is_empty() && level.parse::<LevelFilter>().is_ok();
        if !level.ends_with(']') && !is_level {
            let level = if level.is_empty() { "nothing".into() } else { shortened(level) };
            return Err(format!("{level} is not off, error, warn, info, debug or trace"));
        }
    }
    EnvFilter::try_new(&filter).map_err(|error| error.to_string())?;
    Ok(filter)
}

/// A line for each module of a filter that no line of the log is of.
pub(super) fn unknown_modules(filter: &str) -> Vec<String> {
    let modules = filter.split(',').filter_map(|directive| directive.split_once('='));
    let modules = modules.map(|(module, _)| module.split('[').next().unwrap_or(module));
    let unknown = modules.filter(|module| !is_known(module));
    let line = |module: &str| {
        let meant = did_you_mean(module, CRATES.into_iter());
        format!("log: no line of the log is of the module {}{meant}", shortened(module))
    };
    unknown.map(line).collect()
}

/// A filter means each module whose name begins so.
fn is_known(module: &str) -> bool {
    let is_of = |name: &str| {
        let rest = module.strip_prefix(name);
        name.starts_with(module) || rest.is_some_and(|rest| rest.starts_with("::"))
    };
    CRATES.into_iter().any(is_of)
}

/// Around commas and equals signs.
fn without_spaces(filter: &str) -> String {
    let directive = |part: &str| part.split('=').map(trim).collect::<Vec<_>>().join("=");
    filter.split(',').map(directive).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_those_that_exist() {
        for (text, filter) in [
            ("info", "info"),
            (" INFO\r\n", "INFO"),
            ("info, chat_broker = debug", "info,chat_broker=debug"),
            ("info,,3", "info,,3"),
            ("", ""),
            ("chat_server[span]=debug", "chat_server[span]=debug"),
            ("chat_server[span{a=1}]=debug", "chat_server[span{a=1}]=debug"),
        ] {
            assert_eq!(log_filter(text).as_deref(), Ok(filter), "{text}");
        }
        for (text, level) in [
            ("debgu", "debgu"),
            ("chat_server", "chat_server"),
            ("chat_server=debgu", "debgu"),
            ("info,chat_server=", "nothing"),
            ("info chat_broker=debug,warm", "warm"),
        ] {
            let error = format!("{level} is not off, error, warn, info, debug or trace");
            assert_eq!(log_filter(text), Err(error), "{text}");
        }
        assert!(log_filter("=debug").is_err());
    }

    #[test]
    fn unknown_modules_are_named_with_the_crate_that_is_meant() {
        for known in ["info", "chat_server::connection::report=debug", "chat=trace", "[a]=debug"] {
            assert_eq!(unknown_modules(known), [""; 0], "{known}");
        }
        for (filter, end) in [
            ("chat_servr=debug", "chat_servr; did you mean chat_server?"),
            ("info,chat-server::hub=debug", "chat-server::hub; did you mean chat_server?"),
            ("info chat_broker=debug", "info chat_broker; did you mean chat_broker?"),
            ("CHAT_SERVER=debug", "CHAT_SERVER"),
            ("chat_server2=debug", "chat_server2; did you mean chat_server?"),
        ] {
            let lines = unknown_modules(filter);
            assert!(lines.len() == 1 && lines[0].ends_with(end), "{lines:?}");
        }
    }
}
