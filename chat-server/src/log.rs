//! The log: lines for stdout, written without blocking the server.
//!
//! A pipe that is not read blocks its writer, which is a separate thread here. Lines wait for it in a
//! bounded buffer; further lines are dropped and counted.
//! `tracing-appender` bounds its buffer by lines, not by bytes, and logs nothing of those it drops.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use tracing::field::{Field, Visit};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

use crate::settings::{Exit, LogFormat, LogSettings};

/// How many bytes may wait to be written, and as many again may be on their way.
const BUFFER: usize = 256 * 1024;

/// How long the program waits at its end for the last lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// Replaces what is logged.
pub(crate) type SetFilter = Box<dyn Fn(&LogSettings) + Send + Sync>;

/// Starts to log.
pub(crate) fn start(settings: &LogSettings) -> Result<(Arc<Log>, SetFilter), Exit> {
    let log = Arc::<Log>::default();
    let writer = Arc::clone(&log);
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || writer.write_on())
        .map_err(|error| Exit::System(format!("cannot start threads: {error}")))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter(settings))
        .with_ansi(io::stdout().is_terminal())
        .with_writer(Arc::clone(&log))
        .log_internal_errors(false);
    let set_filter: SetFilter = match settings.format {
        LogFormat::Human => {
            let lines = lines.fmt_fields(HumanFields).with_filter_reloading();
            let handle = lines.reload_handle();
            lines.init();
            Box::new(move |settings| drop(handle.reload(filter(settings))))
        }
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_filter_reloading();
            let handle = lines.reload_handle();
            lines.init();
            Box::new(move |settings| drop(handle.reload(filter(settings))))
        }
    };
    Ok((log, set_filter))
}

/// The fields of a line for people, which programs read as logfmt: a value that has more than a word is
/// quoted, also an error or what else is no text by its type. So no value looks like further fields.
#[derive(Debug, Clone, Copy)]
struct HumanFields;

impl<'writer> FormatFields<'writer> for HumanFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = HumanLine { writer, is_begun: false, outcome: Ok(()) };
        fields.record(&mut line);
        line.outcome
    }
}

struct HumanLine<'writer> {
    writer: Writer<'writer>,
    is_begun: bool,
    outcome: fmt::Result,
}

impl HumanLine<'_> {
    fn write(&mut self, name: &str, value: fmt::Arguments<'_>) {
        let space = if std::mem::replace(&mut self.is_begun, true) { " " } else { "" };
        self.outcome = self.outcome.and_then(|()| match name {
            "message" => write!(self.writer, "{space}{value}"),
            name => write!(self.writer, "{space}{name}={value}"),
        });
    }
}

impl Visit for HumanLine<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            name @ "message" => self.write(name, format_args!("{value}")),
            name => self.write(name, format_args!("{value:?}")),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let name = field.name();
        if name == "message" {
            return self.write(name, format_args!("{value:?}"));
        }
        let text = format!("{value:?}");
        if is_word(&text) {
            self.write(name, format_args!("{text}"));
        } else {
            self.write(name, format_args!("{text:?}"));
        }
    }
}

/// Whether a value needs no quotes.
fn is_word(text: &str) -> bool {
    let is_plain = |c: char| !matches!(c, '=' | '"' | '\\') && !c.is_whitespace();
    !text.is_empty() && text.chars().all(|c| is_plain(c) && c.escape_debug().len() == 1)
}

/// What has been checked with the other settings.
fn filter(settings: &LogSettings) -> EnvFilter {
    EnvFilter::new(settings.filter())
}

/// What is on its way to stdout.
#[derive(Debug, Default)]
pub(crate) struct Log {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    dropped: u64,
    /// Earlier lines are being written.
    writing: bool,
}

/// Flushes the log when it is dropped: the lines of the program's end are written by another thread, which ends
/// with the program.
pub(crate) struct FlushOnDrop(pub(crate) Arc<Log>);

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        self.0.flush();
    }
}

impl Log {
    /// Waits until all is written, but not long.
    pub(crate) fn flush(&self) {
        let is_busy = |waiting: &mut Waiting| waiting.writing || !waiting.lines.is_empty();
        self.changed.wait_while_for(&mut self.lock(), is_busy, FLUSH_TIMEOUT);
    }

    fn write_on(&self) {
        let mut lines = Vec::new();
        loop {
            self.take(&mut lines);
            // A reader of the log that has gone away must not take the server with it.
            let _ = io::stdout().write_all(&lines);
            let dropped = self.written();
            if dropped > 0 {
                tracing::warn!(dropped, "lines of the log were dropped: it is not read");
            }
        }
    }

    /// Waits for lines, and gives `lines` in exchange.
    fn take(&self, lines: &mut Vec<u8>) {
        lines.clear();
        let nothing = |waiting: &mut Waiting| waiting.lines.is_empty();
        let mut waiting = self.lock();
        self.changed.wait_while(&mut waiting, nothing);
        std::mem::swap(&mut waiting.lines, lines);
        waiting.writing = true;
    }

    /// How many lines were dropped meanwhile.
    fn written(&self) -> u64 {
        let mut waiting = self.lock();
        waiting.writing = false;
        self.changed.notify_all();
        std::mem::take(&mut waiting.dropped)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock()
    }
}

/// Takes each line at once, or drops it.
impl Write for &Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.lock();
        if waiting.lines.len() + line.len() <= BUFFER {
            waiting.lines.extend_from_slice(line);
            self.changed.notify_all();
        } else {
            waiting.dropped += 1;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn value_of_more_than_a_word_is_quoted() {
        let lines = Lines::default();
        let log = tracing_subscriber::fmt()
            .fmt_fields(HumanFields)
            .with_writer(lines.clone())
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .finish();
        tracing::subscriber::with_default(log, || {
            let address = std::net::Ipv4Addr::LOCALHOST;
            let error = io::Error::other("it is \"broken\"");
            let forged = format_args!("\"x\" user=\"ceo\"").to_string();
            let (none, n) = (None::<&str>, 7);
            tracing::info!(%address, %error, none, n, forged = %forged, ok = true, "two words");
            tracing::info!(text = "a b", word = "a", empty = %"", line = %"a\nb", "more");
        });
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        let expected = concat!(
            r#" INFO two words address=127.0.0.1 error="it is \"broken\"" n=7 "#,
            r#"forged="\"x\" user=\"ceo\"" ok=true"#,
            "\n",
            r#" INFO more text="a b" word="a" empty="" line="a\nb""#,
            "\n"
        );
        assert_eq!(text, expected);
    }
}
