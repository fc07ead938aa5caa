//! One rank of a benchmark: a process that is told over standard input what to measure.

use std::io::BufRead;
use std::net::{Ipv4Addr, SocketAddr};

use clap::ValueEnum;
use ringmaster_ring::bench::{self, Case, Reduction};
use ringmaster_ring::{Abort, Membership, Options, Ring, RingListener, Transport};
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
    /// What may carry the data.
    pub(super) carrier: Carrier,
    /// What to measure, in order.
    pub(super) cases: Vec<CaseSpec>,
}

/// What may carry the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(super) enum Carrier {
    /// What a run uses: shared memory between ranks of one host
    Best,
    /// TCP, as between hosts
    Tcp,
}

/// What a rank says first, once the ring is there.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Formed {
    /// What carries the data of the first link: tcp, shm, or none.
    pub(super) transport: String,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(super) enum Measured {
    /// The exact sum in fixed point
    Exact,
    /// Sums of f32
    F32,
    /// Sums of f32 that travel as bfloat16
    Bf16,
    /// The bytes, additions and checksums of f32 without its order: a ceiling
    Pump,
    /// Copies of as many bytes as a link carries, without a link: a ceiling
    Memcpy,
}

impl Measured {
    /// Its name in the results.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Pump => "pump",
            Self::Memcpy => "memcpy",
        }
    }
}

/// One case.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct CaseSpec {
    /// MiB of f32.
    pub(super) mib: f64,
    /// How it is summed.
    pub(super) reduction: Measured,
    /// Measured calls.
    pub(super) repeats: usize,
}

impl CaseSpec {
    /// As the ring measures it.
    pub(super) fn to_ring(self) -> Case {
        let reduction = match self.reduction {
            Measured::Exact => Reduction::Exact,
            Measured::F32 => Reduction::F32,
            Measured::Bf16 => Reduction::Bf16,
            Measured::Pump => Reduction::Pump,
            Measured::Memcpy => Reduction::Memcpy,
        };
        Case {
            mib: self.mib,
            reduction,
            repeats: self.repeats,
        }
    }
}

/// Prints the address it listens on, reads its [`Assignment`], measures; rank 0 prints what it
/// [`Formed`] and, per case, the seconds of each repeat.
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
    let options = Options {
        transport: match assignment.carrier {
            Carrier::Best => Transport::Best,
            Carrier::Tcp => Transport::Tcp,
        },
        ..Options::default()
    };
    let mut ring = Ring::form(&listener, membership, options, &Abort::new())?;
    if assignment.rank == 0 {
        let transport = ring.transport().to_owned();
        output::json(&Formed { transport });
    }
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
