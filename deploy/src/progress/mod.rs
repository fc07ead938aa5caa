//! How a run in this terminal looks: bars on a terminal, a plain line now and then elsewhere.
//! Everything goes to stderr.

mod tally;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use ringmaster_proto::v1::watch_run_response::Event;
use ringmaster_proto::v1::{CheckpointCommitted, Sample};

use self::tally::RunTally;

/// How often a plain line is printed.
pub(crate) const LINE_EVERY: Duration = Duration::from_secs(10);

/// Progress of the training part.
pub(crate) struct Progress {
    tally: RunTally,
    printed: u64,
    /// Phase and reason, as shown last.
    stands: String,
    view: View,
}

enum View {
    Bars {
        all: MultiProgress,
        run: ProgressBar,
        workers: BTreeMap<String, ProgressBar>,
    },
    Lines,
    Quiet,
}

impl Progress {
    /// Bars if stderr is a terminal, else lines.
    pub(crate) fn new(total_steps: u64) -> Self {
        let view = if std::io::stderr().is_terminal() {
            let all = MultiProgress::new();
            let template = "{bar:30} {pos}/{len} steps  {msg}";
            let run = all.add(ProgressBar::new(total_steps).with_style(style(template)));
            run.enable_steady_tick(Duration::from_secs(1));
            View::Bars {
                all,
                run,
                workers: BTreeMap::new(),
            }
        } else {
            View::Lines
        };
        Self {
            tally: RunTally::new(total_steps),
            printed: 0,
            stands: String::new(),
            view,
        }
    }

    /// Shows nothing but notes.
    pub(crate) fn quiet(total_steps: u64) -> Self {
        let tally = RunTally::new(total_steps);
        Self {
            tally,
            printed: 0,
            stands: String::new(),
            view: View::Quiet,
        }
    }

    /// Prints a line that stays.
    pub(crate) fn note(&self, text: &str) {
        match &self.view {
            View::Bars { all, .. } => all.suspend(|| eprintln!("{text}")),
            View::Lines | View::Quiet => eprintln!("{text}"),
        }
    }

    /// Takes in one event of the run.
    pub(crate) fn apply(&mut self, event: &Event) {
        match event {
            Event::Status(status) => {
                self.tally.total_steps = status.total_steps;
                let stands = format!("{}: {}", status.phase, status.reason);
                if self.stands != stands {
                    self.detail(&stands);
                    self.stands = stands;
                }
            }
            Event::Step(step) => {
                let first = self.tally.record(step);
                if first && matches!(self.view, View::Lines) {
                    self.tick();
                }
            }
            Event::Sample(sample) => self.detail(&sample_line(sample)),
            Event::Checkpoint(checkpoint) => self.detail(&checkpoint_line(checkpoint)),
        }
        self.redraw();
    }

    /// Time for a plain line, if the run has advanced since the last one.
    pub(crate) fn tick(&mut self) {
        if matches!(self.view, View::Lines) && self.tally.step > self.printed {
            self.printed = self.tally.step;
            self.note(&self.tally.line());
        }
    }

    /// Rank of a worker in the newest generation.
    pub(crate) fn rank_of(&self, worker: &str) -> Option<u32> {
        self.tally.worker(worker).map(|worker| worker.rank)
    }

    /// Takes the bars away and leaves the last word on the run.
    pub(crate) fn finish(mut self) {
        if let View::Bars { all, run, workers } = &self.view {
            workers
                .values()
                .chain([run])
                .for_each(ProgressBar::finish_and_clear);
            let _terminal_gone = all.clear();
            self.view = View::Lines;
        }
        self.tick();
    }

    fn detail(&self, text: &str) {
        if !matches!(self.view, View::Quiet) {
            self.note(text);
        }
    }

    fn redraw(&mut self) {
        let View::Bars { all, run, workers } = &mut self.view else {
            return;
        };
        workers.retain(|name, bar| {
            let present = self.tally.worker(name).is_some();
            if !present {
                bar.finish_and_clear();
                all.remove(bar);
            }
            present
        });
        for (name, tally) in self.tally.workers() {
            let bar = workers.entry(name.to_owned()).or_insert_with(|| {
                all.add(ProgressBar::new_spinner().with_style(style("  {prefix}  {msg}")))
            });
            bar.set_prefix(name.to_owned());
            bar.set_message(tally.line());
        }
        run.set_length(self.tally.total_steps);
        run.set_position(self.tally.step);
        if let Some(eta) = self.tally.eta_seconds() {
            run.set_message(format!("eta {}", crate::output::duration(eta)));
        }
    }
}

fn sample_line(sample: &Sample) -> String {
    let Sample {
        step,
        question,
        reference,
        answer,
    } = sample;
    format!("step {step}: {question} -> {answer:?} (right: {reference:?})")
}

fn checkpoint_line(checkpoint: &CheckpointCommitted) -> String {
    let size = crate::output::bytes(checkpoint.bytes);
    format!("checkpoint at step {}, {size}", checkpoint.step)
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of this file; a broken one falls back to the plain bar.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Progress of a part with named stages: preparing a corpus, evaluating.
pub(crate) struct Stages {
    bar: Option<ProgressBar>,
}

impl Stages {
    /// A bar if stderr is a terminal, else nothing: stages are short.
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0).with_style(style("{bar:30} {pos}/{len} {msg}"));
            bar.enable_steady_tick(Duration::from_secs(1));
            bar
        });
        Self { bar }
    }

    /// `done` of `total` of the stage `name`; a `total` of 0 is unknown.
    pub(crate) fn show(&self, name: &str, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            match total {
                0 => bar.unset_length(),
                total => bar.set_length(total),
            }
            bar.set_position(done);
            if bar.message() != name {
                bar.set_message(name.to_owned());
            }
        }
    }
}

impl ringmaster_dataset::Progress for Stages {
    fn stage(&self, name: &str, done: u64, total: u64) {
        self.show(name, done, total);
    }
}

impl Drop for Stages {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
