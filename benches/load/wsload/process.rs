//! CPU time and memory of processes, read from /proc.

use std::fs;

/// The kernel reports times in hundredths of a second, on every architecture.
const TICK_US: u64 = 10_000;

#[derive(Clone, Copy, Default)]
pub struct Cpu {
    pub total_us: u64,
    /// The part in user space, to a hundredth of a second.
    pub user_us: u64,
}

impl Cpu {
    pub fn since(self, before: Cpu) -> Cpu {
        Cpu {
            // A thread that has ended in between takes its time with it.
            total_us: self.total_us.saturating_sub(before.total_us),
            user_us: self.user_us - before.user_us,
        }
    }
}

/// CPU time so far of these processes together.
pub fn cpu(pids: &[u32]) -> Cpu {
    Cpu {
        total_us: pids.iter().map(|&pid| scheduled_ns(pid)).sum::<u64>() / 1_000,
        user_us: pids.iter().map(|&pid| user_ticks(pid)).sum::<u64>() * TICK_US,
    }
}

/// What the scheduler has counted for the threads of a process: Redis uses a few ticks in a run.
fn scheduled_ns(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let nanoseconds = threads.filter_map(|thread| {
        let counted = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        counted.split(' ').next()?.parse::<u64>().ok()
    });
    nanoseconds.sum()
}

fn user_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name of the program, in brackets, may hold anything; user time is 11 fields on.
    let after_name = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    after_name.split(' ').nth(11).and_then(|ticks| ticks.parse().ok()).unwrap_or(0)
}

/// CPU time that the whole machine was busy, in microseconds.
pub fn machine_us() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    // cpu, then: user nice system idle iowait irq softirq steal.
    let ticks = line.split_ascii_whitespace().skip(1).take(8).enumerate();
    let busy = ticks.filter(|(index, _)| ![3, 4].contains(index));
    busy.map(|(_, field)| field.parse::<u64>().unwrap_or(0) * TICK_US).sum()
}

/// Resident memory of these processes together, in KiB.
pub fn resident_kib(pids: &[u32]) -> u64 {
    let resident = |pid: &u32| {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:"))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    pids.iter().filter_map(resident).sum()
}
