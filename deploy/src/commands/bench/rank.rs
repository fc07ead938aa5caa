//! One rank of a benchmark: a process that is told over standard input what to measure.

use std::io::BufRead;
use std::net::{Ipv4Addr, SocketAddr};

use ringmaster_proto::spec::Reduction;
use ringmaster_ring::bench::{self, Case};
use ringmaster_ring::{Abort, Membership, Options, Ring, RingListener};
use serde::{Deserialize, Serialize};

use crate::error::{CliError, Exit};
use crate::output;
use crate::signals;

/// What a rank is told: one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Assignment {
    /// Its own rank.
    pub(super) rank: usize,
    /// Where every rank listens.
    pub(super) addresses: Vec<String>,
    /// What only these ranks know.
    pub(super) secret: [u8; 32],
    /// What to measure, in order.
    pub(super) cases: Vec<CaseSpec>,
}

/// One case.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct CaseSpec {
    /// MiB of f32.
    pub(super) mib: u32,
    /// How it is summed.
    pub(super) reduction: Reduction,
    /// Measured calls.
    pub(super) repeats: usize,
}

impl CaseSpec {
    /// As the ring measures it.
    pub(super) fn to_ring(self) -> Case {
        let reduction = match self.reduction {
            Reduction::Exact => bench::Reduction::Exact,
            Reduction::F32 => bench::Reduction::F32,
            Reduction::Bf16 => bench::Reduction::Bf16,
        };
        Case {
            mib: f64::from(self.mib),
            reduction,
            repeats: self.repeats,
        }
    }
}

/// Prints the address it listens on, reads its [`Assignment`], measures; rank 0 prints, per case,
/// the seconds of each repeat.
pub(crate) fn run() -> Result<Exit, CliError> {
    let listener = RingListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    output::line(&listener.local_addr().to_string());
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut text)
        .map_err(wrong)?;
    let assignment: Assignment = serde_json::from_str(&text).map_err(wrong)?;
    signals::exit_with_parent();
    let addrs: Result<Vec<SocketAddr>, _> =
        assignment.addresses.iter().map(|a| a.parse()).collect();
    let membership = Membership {
        run: "bench".to_owned(),
        generation: 1,
        rank: assignment.rank,
        addrs: addrs.map_err(wrong)?,
        secret: assignment.secret,
    };
    let mut ring = Ring::form(&listener, membership, Options::default(), &Abort::new())?;
    for case in assignment.cases {
        let own = bench::run_case(&mut ring, case.to_ring())?;
        let slowest = bench::slowest(&mut ring, &own)?;
        if assignment.rank == 0 {
            output::json(&slowest);
        }
    }
    Ok(Exit::Done)
}

fn wrong(error: impl std::fmt::Display) -> CliError {
    let next = "use `ringmaster bench allreduce`, which starts this";
    CliError::invalid("bench-rank", error, next)
}
