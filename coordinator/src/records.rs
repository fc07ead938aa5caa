//! The files of a run that tell of its steps: `metrics.jsonl`, and beside it `ledger.jsonl` and
//! `quarantine.jsonl`. A full disk is no reason to stop training: what cannot be written is logged.

use std::io::Result;
use std::path::{Path, PathBuf};

use ringmaster_proto::{Generation, Step, v1};

use crate::error::CoordinatorError;
use crate::json_lines::JsonLines;
use crate::ledger::{Ledger, LedgerLine};
use crate::metrics_log::{Appended, MetricsLog, StepLine};
use crate::quarantine_log::QuarantineLog;

/// Name of the ledger, beside `metrics.jsonl`.
pub const LEDGER: &str = "ledger.jsonl";

/// Name of the list of refused rows, beside `metrics.jsonl`.
pub const QUARANTINE: &str = "quarantine.jsonl";

/// The open files.
pub(crate) struct Records {
    metrics: (PathBuf, MetricsLog),
    ledger: (PathBuf, LedgerFile),
    quarantine: (PathBuf, QuarantineLog),
    /// Lines could not be written, and somebody was told.
    waits: bool,
}

impl Records {
    /// Opens or creates the files of a run with this past.
    pub(crate) fn open(
        metrics: &Path,
        lineage: &[(Generation, Step)],
    ) -> std::result::Result<Self, CoordinatorError> {
        let ledger = |path: &Path| LedgerFile::open(path, lineage);
        Ok(Self {
            metrics: opened(metrics.to_owned(), MetricsLog::open)?,
            ledger: opened(metrics.with_file_name(LEDGER), ledger)?,
            quarantine: opened(metrics.with_file_name(QUARANTINE), QuarantineLog::open)?,
            waits: false,
        })
    }

    /// The newest step of which everything is on record.
    pub(crate) fn last(&self) -> Step {
        self.metrics.1.last().min(self.ledger.1.ledger.last())
    }

    /// A step was completed for the first time. Its refused rows come first: what is on record has
    /// names.
    pub(crate) fn completed(&mut self, line: &StepLine, refused: &[v1::QuarantinedRow]) {
        let (path, log) = &mut self.quarantine;
        told(path, log.append(line.step, refused));
        let (path, log) = &mut self.metrics;
        let appended = log.append(line);
        if let Ok(Appended::Differs(was)) = &appended {
            let (step, now) = (line.step, line.loss);
            tracing::error!(step, ?was, ?now, "the redo differs from an earlier session");
        }
        told(path, appended.map(drop));
        self.redone(line);
    }

    /// A step was completed again, by a later generation.
    pub(crate) fn redone(&mut self, line: &StepLine) {
        let (path, ledger) = &mut self.ledger;
        told(path, ledger.take(line.into()));
    }

    /// A generation is recorded.
    pub(crate) fn began(&mut self, generation: Generation, resume: Step) {
        let (path, ledger) = &mut self.ledger;
        told(path, ledger.began(generation, resume));
    }

    /// Writes the lines that could not be written when they came.
    pub(crate) fn flush(&mut self) {
        let (ledger, quarantine) = (&mut self.ledger.1.file, &mut self.quarantine.1);
        let flushed = self.metrics.1.flush().and(ledger.flush());
        match flushed.and(quarantine.flush()) {
            Ok(()) => self.waits = false,
            Err(error) if !std::mem::replace(&mut self.waits, true) => {
                let path = self.metrics.0.display();
                tracing::warn!(%path, %error, "steps are not on record until it is mended");
            }
            Err(_) => {}
        }
    }

    /// Steps after this one never happened.
    pub(crate) fn forget_after(&mut self, step: Step) {
        let (path, log) = &mut self.metrics;
        told(path, log.forget_after(step));
    }
}

fn opened<T>(
    path: PathBuf,
    open: impl FnOnce(&Path) -> Result<T>,
) -> std::result::Result<(PathBuf, T), CoordinatorError> {
    match open(&path) {
        Ok(log) => Ok((path, log)),
        Err(source) => Err(CoordinatorError::MetricsFile { path, source }),
    }
}

fn told(path: &Path, written: Result<()>) {
    if let Err(error) = written {
        tracing::error!(path = %path.display(), %error, "the record of a step cannot be kept");
    }
}

/// The ledger and its file.
struct LedgerFile {
    ledger: Ledger,
    file: JsonLines,
}

impl LedgerFile {
    fn open(path: &Path, lineage: &[(Generation, Step)]) -> Result<Self> {
        let mut ledger = Ledger::new(lineage);
        let mut file = JsonLines::open(path, |_: LedgerLine| {})?;
        let cut = file.keep_while(|line: &LedgerLine| ledger.stands(line))?;
        let mut opened = Self { ledger, file };
        opened.put_back(cut)?;
        Ok(opened)
    }

    fn began(&mut self, generation: Generation, resume: Step) -> Result<()> {
        let last = self.ledger.last();
        self.ledger.began(generation, resume);
        if last > resume {
            let stays = |line: &LedgerLine| line.step <= resume.0;
            let cut = self.file.keep_while(stays)?;
            self.put_back(cut)?;
        }
        Ok(())
    }

    fn take(&mut self, line: LedgerLine) -> Result<()> {
        let ready = self.ledger.take(line);
        ready.iter().try_for_each(|line| self.file.append(line))
    }

    /// What was taken off the record is remembered until it is told again.
    fn put_back(&mut self, cut: Vec<LedgerLine>) -> Result<()> {
        cut.into_iter().try_for_each(|line| self.take(line))
    }
}
