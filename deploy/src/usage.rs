//! What a process costs the machine it runs on, as the system counts it.

use std::fs;
use std::path::PathBuf;

use ringmaster_proto::ErrorKind;

use crate::error::CliError;

/// The unit of processor time in /proc: 100 per second on every platform this is built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Most resident memory this process has had, bytes; none where there is no /proc.
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    peak_in(&fs::read_to_string("/proc/self/status").ok()?)
}

/// Processor time of this process, of the children it has waited for, and of theirs, seconds; none
/// where there is no /proc.
pub(crate) fn core_seconds() -> Option<f64> {
    core_seconds_in(&fs::read_to_string("/proc/self/stat").ok()?)
}

/// What another process has cost so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// Processor time, seconds.
    pub(crate) core_seconds: f64,
    /// Memory it holds now.
    pub(crate) resident_bytes: u64,
}

/// What process `pid` has cost so far.
pub(crate) fn of(pid: u32) -> Result<Usage, CliError> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).map_err(|error| CliError::file(&path, &error))
    };
    let usage = || {
        Ok::<_, CliError>(core_seconds_in(&read("stat")?).zip(bytes_in("VmRSS:", &read("status")?)))
    };
    let (core_seconds, resident_bytes) = usage()?.ok_or_else(|| {
        let what = folder.display().to_string();
        CliError::refused(ErrorKind::Internal, what, "unreadable", "please report it")
    })?;
    Ok(Usage {
        core_seconds,
        resident_bytes,
    })
}

fn peak_in(status: &str) -> Option<u64> {
    bytes_in("VmHWM:", status)
}

/// A line of proc_pid_status(5) that counts memory.
fn bytes_in(name: &str, status: &str) -> Option<u64> {
    let bytes = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = bytes.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

/// utime, stime, cutime and cstime: fields 14 to 17 of proc_pid_stat(5). The second field is the
/// program's name, which may hold anything; after its last parenthesis comes the third.
fn core_seconds_in(stat: &str) -> Option<f64> {
    let (_, from_third) = stat.rsplit_once(')')?;
    let mut fields = from_third.split_whitespace().skip(14 - 3);
    let mut ticks = 0;
    for _ in 0..4 {
        ticks += fields.next()?.parse::<u64>().ok()?;
    }
    Some(ticks as f64 / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_proc_are_found_behind_any_name() {
        let stat = "7 (a ) R 1 (b) S 1 7 7 0 -1 4194304 99 98 97 96 150 50 25 75 20 0 4 0 12";
        assert_eq!(core_seconds_in(stat), Some(3.0));
        assert_eq!(core_seconds_in("7 (short) S 1"), None);
        let status = "Name:\tx\nVmPeak:\t  900 kB\nVmHWM:\t   12 kB\nVmRSS:\t 8 kB\n";
        assert_eq!(peak_in(status), Some(12 * 1024));
        assert_eq!(peak_in("Name:\tx\n"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let page = 4096;
        assert!(peak_memory_bytes().is_some_and(|bytes| bytes > page));
        assert!(core_seconds().is_some());
    }
}
