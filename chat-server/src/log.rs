//! The log: lines for stdout, written without blocking the server.
//!
//! A pipe that is not read blocks its writer, which is a separate thread here. Lines wait for it in a
//! bounded buffer; further lines are dropped and counted.
//! `tracing-appender` bounds its buffer by lines, not by bytes, and logs nothing of those it drops.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use tracing_subscriber::EnvFilter;

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
            let lines = lines.with_filter_reloading();
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
