//! What the system knows of this process, by the names that Prometheus' own clients use. Linux alone
//! has it: elsewhere there are no such metrics.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// Ticks of `/proc` in a second: a constant of Linux' interface, whatever the kernel's own clock
/// (`USER_HZ`).
const TICKS: f64 = 100.0;

/// A reading. A part is `None` where its file cannot be read.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) virtual_bytes: Option<u64>,
    pub(crate) open_files: Option<u64>,
    /// The soft limit; `None` also without one.
    pub(crate) max_files: Option<u64>,
    /// CPU time of all threads.
    pub(crate) cpu: Option<Duration>,
    /// When the process started, since 1970.
    pub(crate) started: Option<Duration>,
}

impl Process {
    pub(crate) fn read() -> Self {
        Self::of(Path::new("/proc"))
    }

    fn of(proc: &Path) -> Self {
        let text = |file: &str| fs::read_to_string(proc.join(file)).unwrap_or_default();
        let (status, stat, limits) = (text("self/status"), text("self/stat"), text("self/limits"));
        let kilobytes = |name: &str| Some(1024 * number(after(&status, name)?)?);
        // The name of the program, in parentheses, may have spaces.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        // Fields of proc_pid_stat(5) count from 1, and these begin with the third.
        let time = |nth: usize| {
            let ticks: u64 = fields.split_whitespace().nth(nth - 3)?.parse().ok()?;
            Some(Duration::from_secs_f64(ticks as f64 / TICKS))
        };
        // A service of systemd with ProcSubset=pid has the directories of processes alone.
        let booted = || number(after(&text("stat"), "btime")?).map(Duration::from_secs);
        Self {
            resident_bytes: kilobytes("VmRSS:"),
            virtual_bytes: kilobytes("VmSize:"),
            open_files: open_files(&proc.join("self/fd")),
            max_files: after(&limits, "Max open files").and_then(number),
            cpu: time(14).zip(time(15)).map(|(user, system)| user + system),
            started: time(22).zip(booted()).map(|(since_boot, booted)| booted + since_boot),
        }
    }
}

/// The name of this machine, pod or container. `None` if the system does not say it.
pub(crate) fn host_name() -> Option<String> {
    let files = ["/proc/sys/kernel/hostname", "/etc/hostname"];
    let name = files.iter().find_map(|file| fs::read_to_string(file).ok())?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// The directory's size is their number since Linux 6.2, and 0 before.
fn open_files(files: &Path) -> Option<u64> {
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn missing_file_costs_what_it_holds_alone() {
        let proc = std::env::temp_dir().join(format!("chat-proc-{}", std::process::id()));
        fs::create_dir(&proc).unwrap();
        std::os::unix::fs::symlink("/proc/self", proc.join("self")).unwrap();
        let read = Process::of(&proc);
        fs::remove_dir_all(&proc).unwrap();
        assert!(read.resident_bytes.is_some() && read.virtual_bytes.is_some(), "{read:?}");
        assert!(read.open_files.is_some() && read.cpu.is_some(), "{read:?}");
        assert!(read.started.is_none(), "it needs stat: {read:?}");
        assert!(Process::read().started.is_some());
    }
}
