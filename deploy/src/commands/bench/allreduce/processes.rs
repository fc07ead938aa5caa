//! The processes of one ring: what they are told and what they say.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use ringmaster_proto::auth::RunToken;
use ringmaster_proto::{ErrorKind, Generation};
use serde::de::DeserializeOwned;

use crate::commands::bench::rank::{Assignment, Carrier, CaseSpec, Formed};
use crate::error::CliError;

/// One process per rank; dropping it ends them, because their standard input closes.
pub(super) struct Processes {
    ranks: Vec<Rank>,
}

struct Rank {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Processes {
    pub(super) fn start(world: u32) -> Result<Self, CliError> {
        let ranks: Result<Vec<Rank>, CliError> = (0..world).map(|_| Rank::start()).collect();
        Ok(Self { ranks: ranks? })
    }

    /// Tells every rank where all ranks listen and what to measure; returns what carries the data.
    pub(super) fn assign(
        &mut self,
        carrier: Carrier,
        cases: &[CaseSpec],
    ) -> Result<String, CliError> {
        let addresses: Result<Vec<String>, CliError> =
            self.ranks.iter_mut().map(Rank::line).collect();
        let addresses = addresses?;
        let token = RunToken::generate().map_err(broken)?;
        let secret = token.ring_secret("bench", Generation(1));
        for (rank, process) in self.ranks.iter_mut().enumerate() {
            let (addresses, cases) = (addresses.clone(), cases.to_vec());
            let assignment = Assignment {
                rank,
                addresses,
                secret,
                carrier,
                cases,
            };
            process.tell(&assignment)?;
        }
        let Formed { transport } = self.hear()?;
        Ok(transport)
    }

    /// The seconds of each repeat of the next case, of the slowest rank.
    pub(super) fn seconds(&mut self) -> Result<Vec<f64>, CliError> {
        self.hear()
    }

    /// What rank 0 says next.
    fn hear<T: DeserializeOwned>(&mut self) -> Result<T, CliError> {
        let line = match self.ranks.first_mut() {
            Some(first) => first.line()?,
            None => String::new(),
        };
        serde_json::from_str(&line).map_err(broken)
    }

    pub(super) fn end(self) -> Result<(), CliError> {
        self.ranks.into_iter().try_for_each(|mut rank| {
            drop(rank.stdin);
            rank.process.wait().map(drop).map_err(broken)
        })
    }
}

impl Rank {
    fn start() -> Result<Self, CliError> {
        let program = std::env::current_exe().map_err(broken)?;
        let mut process = Command::new(program)
            .arg("bench-rank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(broken)?;
        let (Some(stdin), Some(stdout)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(broken("a rank has no pipes"));
        };
        Ok(Self {
            process,
            stdin,
            stdout: BufReader::new(stdout),
        })
    }

    /// The next line the rank prints; without one, why it ended.
    fn line(&mut self) -> Result<String, CliError> {
        let mut line = String::new();
        match self.stdout.read_line(&mut line) {
            Ok(n) if n > 0 => Ok(line.trim_end().to_owned()),
            _ => Err(self.error()),
        }
    }

    fn tell(&mut self, assignment: &Assignment) -> Result<(), CliError> {
        let text = serde_json::to_string(assignment).map_err(broken)?;
        let told = writeln!(self.stdin, "{text}").and_then(|()| self.stdin.flush());
        told.map_err(|_| self.error())
    }

    fn error(&mut self) -> CliError {
        let mut said = String::new();
        let stderr = self
            .process
            .stderr
            .take()
            .map(|mut stderr| stderr.read_to_string(&mut said));
        let error = said
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("error: "));
        match (stderr, error) {
            (Some(Ok(_)), Some(message)) => {
                let code = ErrorKind::Internal.exit_code();
                CliError::Child {
                    message: message.to_owned(),
                    code,
                }
            }
            _ => broken("a rank ended without saying why"),
        }
    }
}

fn broken(reason: impl ToString) -> CliError {
    CliError::refused(ErrorKind::Internal, "bench", reason, "please report it")
}
