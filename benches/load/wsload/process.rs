//! CPU time and memory of processes, read from /proc.

use std::fs;

/// The kernel reports times in hundredths of a second, on every architecture.
const TICK_US: u64 = 10_000;

#[derive(Clone, Copy, Default)]
pub struct Cpu {
    pub user_us: u64,
    pub system_us: u64,
}

impl Cpu {
    pub fn total_us(self) -> u64 {
        self.user_us + self.system_us
    }

    pub fn since(self, before: Cpu) -> Cpu {
        Cpu { user_us: self.user_us - before.user_us, system_us: self.system_us - before.system_us }
    }
}

/// CPU time so far of these processes together.
pub fn cpu(pids: &[u32]) -> Cpu {
    let mut sum = Cpu::default();
    for pid in pids {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name of the program, in brackets, may hold anything; times are 11 fields on.
        let after_name = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        let mut ticks = after_name.split(' ').skip(11).map(|field| field.parse().unwrap_or(0));
        sum.user_us += ticks.next().unwrap_or(0) * TICK_US;
        sum.system_us += ticks.next().unwrap_or(0) * TICK_US;
    }
    sum
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
