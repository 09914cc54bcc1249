//! Panics in the log, as one line that says on which server: the words of the standard library are
//! several lines on stderr, which a collector of logs does not tie to a server.

use std::any::Any;
use std::panic::{self, PanicHookInfo};
use std::sync::OnceLock;

use chat_core::printable;
use tracing::Level;

/// The longest message of a panic that is logged, in characters: it may hold what a client has sent.
const LONGEST: usize = 500;

/// Which server this is.
#[derive(Debug)]
struct Name {
    node: String,
    host: Option<String>,
}

static NAME: OnceLock<Name> = OnceLock::new();

/// Says which server the panics from now on are of.
pub(crate) fn name(node: &str, host: Option<String>) {
    // Fails if it is known: a process has one server.
    let _ = NAME.set(Name { node: node.to_owned(), host });
}

/// Logs panics from now on. `RUST_BACKTRACE` has the standard library write its words too, as it does where
/// errors are not logged.
pub(crate) fn log_panics() {
    let of_std = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let is_logged = tracing::enabled!(Level::ERROR);
        if is_logged {
            log_panic(panic);
        }
        if !is_logged || std::env::var_os("RUST_BACKTRACE").is_some() {
            of_std(panic);
        }
    }));
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let name = NAME.get();
    let node = name.map(|name| &*name.node);
    let host = name.and_then(|name| name.host.as_deref());
    let at = panic.location().map(ToString::to_string);
    let detail = message(panic.payload());
    tracing::error!(node, host, at, detail, "panicked");
}

fn message(payload: &dyn Any) -> Option<String> {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))?;
    let clipped: String = text.chars().take(LONGEST).collect();
    Some(printable(&clipped).into_owned())
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};

    use parking_lot::Mutex;

    use super::*;

    static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

    struct ToLines;

    impl Write for ToLines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            LINES.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn panic_is_one_line_with_its_server() {
        name("n5p2", Some("chat-1".to_owned()));
        log_panics();
        let lines = tracing_subscriber::fmt().with_writer(|| ToLines).with_ansi(false).finish();
        tracing::subscriber::with_default(lines, || {
            let _ = panic::catch_unwind(|| panic!("a bug\nwith {}", 7));
        });
        drop(panic::take_hook());
        let text = String::from_utf8(LINES.lock().clone()).unwrap();
        let expected = r#"panicked node="n5p2" host="chat-1" at="chat-server/src/panics.rs:"#;
        assert!(text.contains("ERROR") && text.contains(expected), "{text}");
        assert!(text.ends_with("detail=\"a bug\\\\nwith 7\"\n"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn message_is_one_line_of_a_bounded_length() {
        let long = format!("\"a\nb\u{1b}[31m{}", "x".repeat(2000));
        let shown = message(&long).unwrap();
        assert!(shown.starts_with("\"a\\nb\\u{1b}[31mx") && shown.len() < 600, "{shown}");
        assert_eq!(message(&"static").as_deref(), Some("static"));
        assert_eq!(message(&7), None);
    }
}
