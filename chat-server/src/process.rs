//! What the system knows of this process, by the names that Prometheus' own clients use. Linux alone
//! has it: elsewhere there are no such metrics.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// Ticks of `/proc` in a second: a constant of Linux' interface, whatever the kernel's own clock
/// (`USER_HZ`).
const TICKS: f64 = 100.0;

/// A reading.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) resident_bytes: u64,
    pub(crate) virtual_bytes: u64,
    pub(crate) open_files: u64,
    /// The soft limit; `None`: no limit.
    pub(crate) max_files: Option<u64>,
    /// CPU time of all threads.
    pub(crate) cpu: Duration,
    /// When the process started, since 1970.
    pub(crate) started: Duration,
}

impl Process {
    /// `None` without `/proc`, and if a part of it cannot be read.
    pub(crate) fn read() -> Option<Self> {
        let text = |file: &str| fs::read_to_string(Path::new("/proc").join(file)).ok();
        let (status, stat, limits) =
            (text("self/status")?, text("self/stat")?, text("self/limits")?);
        let kilobytes = |name: &str| Some(1024 * number(after(&status, name)?)?);
        // The name of the program, in parentheses, may have spaces.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // Fields of proc_pid_stat(5) count from 1, and these begin with the third.
        let ticks = |nth: usize| fields.get(nth - 3)?.parse::<u64>().ok();
        let seconds = |ticks: u64| Duration::from_secs_f64(ticks as f64 / TICKS);
        let booted = Duration::from_secs(number(after(&text("stat")?, "btime")?)?);
        Some(Self {
            resident_bytes: kilobytes("VmRSS:")?,
            virtual_bytes: kilobytes("VmSize:")?,
            open_files: open_files()?,
            max_files: number(after(&limits, "Max open files")?),
            cpu: seconds(ticks(14)? + ticks(15)?),
            started: booted + seconds(ticks(22)?),
        })
    }
}

/// The directory's size is their number since Linux 6.2, and 0 before.
fn open_files() -> Option<u64> {
    let files = Path::new("/proc/self/fd");
    match fs::metadata(files).ok()?.len() {
        0 => Some(fs::read_dir(files).ok()?.count() as u64),
        count => Some(count),
    }
}

/// The rest of the line that begins with `name`.
fn after<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))
}

/// The first word, as a number.
fn number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}
