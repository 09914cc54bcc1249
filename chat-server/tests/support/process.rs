//! What a process uses, as the kernel counts it (proc(5)).

use std::fs;
use std::time::{Duration, Instant};

/// A process, by its id.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Process(pub(crate) u32);

impl Process {
    /// Resident memory, in KiB.
    pub(crate) fn rss_kib(self) -> u64 {
        self.status("VmRSS:")
    }

    pub(crate) fn threads(self) -> u64 {
        self.status("Threads:")
    }

    /// Open file descriptors.
    pub(crate) fn files(self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.0)).expect("a living process").count()
    }

    /// Waits until it holds no more files than so many.
    pub(crate) async fn until_files(self, most: usize) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.files() > most {
            assert!(Instant::now() < deadline, "{} files instead of {most}", self.files());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// CPU time of all threads: `utime` and `stime` of `stat`, in ticks of 10 ms.
    pub(crate) fn cpu(self) -> Duration {
        let stat = self.read("stat");
        // The name, in parentheses, may hold anything.
        let (_, fields) = stat.rsplit_once(") ").expect("a name");
        let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap());
        Duration::from_millis(10 * ticks.sum::<u64>())
    }

    fn status(self, name: &str) -> u64 {
        let status = self.read("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        line.split_whitespace().next().and_then(|value| value.parse().ok()).expect(name)
    }

    fn read(self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.0)).expect("a living process")
    }
}
