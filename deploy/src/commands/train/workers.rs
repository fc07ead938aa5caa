//! `--workers`: how many workers a run on this machine has.

use std::cmp::Ordering;
use std::str::FromStr;

use ringmaster_dataset::{efficiency, lanes_of_rank};
use ringmaster_proto::{Rank, RunSpec, WorldSize};

use crate::devices::Devices;
use crate::error::CliError;
use crate::run_file::RunFile;

/// Worker processes unless told otherwise, or the run needs more.
const USUAL: u32 = 2;

/// As written on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workers {
    /// One per GPU.
    Auto,
    /// So many, whatever there is to compute on.
    Number(u32),
}

impl FromStr for Workers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            number => number
                .parse()
                .map(Self::Number)
                .map_err(|_| format!("{text:?} is neither a number nor auto")),
        }
    }
}

impl Workers {
    /// How many there will be of the run `spec`.
    fn count(asked: Option<Self>, spec: &RunSpec, gpus: u32) -> u32 {
        let usual = match asked {
            Some(Self::Number(number)) => return number,
            Some(Self::Auto) if gpus > 0 => gpus,
            Some(Self::Auto) | None => USUAL,
        };
        // A rank needs a lane, and the run waits for its least number of workers.
        let usual = usual.min(spec.data.lanes);
        usual.max(spec.membership.min_workers)
    }
}

/// How many workers there will be, and the run that has room for no more.
pub(super) fn with_workers(
    file: RunFile,
    asked: Option<Workers>,
    devices: &Devices,
) -> Result<(RunFile, u32), CliError> {
    let spec = file.load()?;
    let gpus = devices.gpus();
    let workers = Workers::count(asked, &spec, gpus);
    if asked == Some(Workers::Auto) && gpus > 0 {
        eprintln!("{}", auto_line(workers, gpus, spec.data.lanes));
    }
    Ok((file.with("membership.max_workers", workers), workers))
}

/// What `auto` came to.
fn auto_line(workers: u32, gpus: u32, lanes: u32) -> String {
    let some = |n: u32, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
    let line = format!(
        "{} on {}",
        some(workers, "worker"),
        some(gpus, "CUDA device")
    );
    match workers.cmp(&gpus) {
        Ordering::Less => format!("{line}: a worker needs a lane, and data.lanes is {lanes}"),
        Ordering::Equal => line,
        Ordering::Greater => format!("{line}, as membership.min_workers asks"),
    }
}

/// Lanes of every rank, and what unevenness costs.
pub(super) fn lanes_line(lanes: u32, workers: u32) -> String {
    let world = WorldSize(workers);
    let of = |rank| lanes_of_rank(lanes, Rank(rank), world).len().to_string();
    let each = (0..workers).map(of).collect::<Vec<_>>().join(" ");
    let lost = 100.0 * (1.0 - efficiency(lanes, world));
    format!("{lanes} lanes over {workers} workers: {each}; {lost:.0}% lost to unevenness")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn auto_is_a_worker_per_gpu_within_what_the_run_allows() {
        let spec = |sets: &[&str]| {
            let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
            RunSpec::parse("", &sets).unwrap()
        };
        let eight = spec(&["data.lanes=8"]);
        let count = |asked: &str, gpus| Workers::count(asked.parse().ok(), &eight, gpus);
        assert_eq!([1, 3, 8].map(|gpus| count("auto", gpus)), [1, 3, 8]);
        assert_eq!(count("auto", 16), 8, "a rank needs a lane");
        assert_eq!(count("auto", 0), 2, "as without the flag");
        assert_eq!(Workers::count(None, &eight, 8), 2);
        assert_eq!(count("9", 8), 9, "refused later, with the keys it is about");
        let many = spec(&[
            "data.lanes=8",
            "membership.max_workers=4",
            "membership.min_workers=4",
        ]);
        for asked in [None, Some(Workers::Auto)] {
            assert_eq!(Workers::count(asked, &many, 1), 4);
        }
        assert_eq!(Workers::count(None, &spec(&["data.lanes=4"]), 0), 2);
    }

    #[test]
    fn what_is_neither_a_number_nor_auto_is_refused() {
        assert_eq!("auto".parse(), Ok(Workers::Auto));
        assert_eq!("3".parse(), Ok(Workers::Number(3)));
        for wrong in ["", "-1", "all", "1.5"] {
            assert!(wrong.parse::<Workers>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn auto_says_what_it_came_to_and_why() {
        assert_eq!(auto_line(4, 4, 8), "4 workers on 4 CUDA devices");
        assert_eq!(auto_line(1, 1, 8), "1 worker on 1 CUDA device");
        assert_eq!(
            auto_line(4, 8, 4),
            "4 workers on 8 CUDA devices: a worker needs a lane, and data.lanes is 4"
        );
        assert_eq!(
            auto_line(4, 1, 8),
            "4 workers on 1 CUDA device, as membership.min_workers asks"
        );
    }

    #[test]
    fn the_cost_of_uneven_lanes_is_shown() {
        assert_eq!(
            lanes_line(4, 2),
            "4 lanes over 2 workers: 2 2; 0% lost to unevenness"
        );
        // One rank has 2 lanes and the others wait for it: 4 lanes of work in the time of 6.
        let line = lanes_line(4, 3);
        assert!(line.ends_with("33% lost to unevenness"), "{line}");
    }
}
