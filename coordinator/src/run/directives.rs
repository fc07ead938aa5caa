//! What the machine says to workers, and to the actor.

use ringmaster_proto::v1::directive::Body;
use ringmaster_proto::v1::{self, Outcome};
use ringmaster_proto::{Generation, WorkerId};

use super::machine::RunMachine;
use super::phase::Phase;
use super::{Effect, Level, Measure};

impl RunMachine {
    /// Says `body` to `worker` under the current term and generation. What concerns a generation is
    /// remembered, and repeated if the worker attends again.
    pub(super) fn send(&mut self, worker: &WorkerId, body: Body) {
        let directive = v1::Directive {
            term: self.term.0,
            generation: self.generation.0,
            body: Some(body),
        };
        let Some(to) = self.workers.get_mut(worker) else {
            return;
        };
        if matches!(
            directive.body,
            Some(Body::Fence(_) | Body::FormRing(_) | Body::Start(_) | Body::Drain(_))
        ) {
            to.last = Some(directive.clone());
        }
        if let Some(session) = to.session {
            self.effects.push(Effect::Send { session, directive });
        }
    }

    /// Says again what `worker` may have missed while it had no stream.
    pub(super) fn repeat(&mut self, worker: &WorkerId) {
        let Some(to) = self.workers.get(worker) else {
            return;
        };
        if let (Some(session), Some(directive)) = (to.session, to.last.clone()) {
            self.effects.push(Effect::Send { session, directive });
        }
    }

    /// Everything a worker needs to prepare itself.
    ///
    /// `keep`: it is where this coordinator believes it is; else it is to leave whatever ring it is in
    /// and to say what it holds.
    pub(super) fn welcome(&mut self, worker: &WorkerId, keep: bool) {
        let config = &self.config;
        let welcome = v1::Welcome {
            run_id: config.spec.run.name.clone(),
            spec_json: config.spec.canonical(),
            spec_hash: config.spec.hash(),
            root_url: config.root_url.clone(),
            corpus_hash: config.corpus.corpus_hash.clone(),
            validation_hash: config.corpus.validation_hash.clone(),
            tokenizer_hash: config.corpus.tokenizer_hash.clone(),
            init_hash: config.corpus.init_hash.clone(),
            heartbeat_ms: config.timing.heartbeat_ms,
            keep,
            completed_step: self.steps.highest().0,
        };
        self.send(worker, Body::Welcome(welcome));
    }

    /// Tells one worker that it is out, and forgets it.
    pub(super) fn remove(&mut self, worker: &WorkerId, message: String) {
        self.log(Level::Info, format!("{worker} is removed: {message}"));
        let outcome = Outcome::Removed.into();
        self.send(worker, Body::Stop(v1::Stop { outcome, message }));
        self.forget(worker);
    }

    /// Ends a worker's stream and forgets it.
    pub(super) fn forget(&mut self, worker: &WorkerId) {
        if let Some(session) = self.workers.remove(worker).and_then(|gone| gone.session) {
            self.effects.push(Effect::Close(session));
        }
    }

    /// Tells every worker that the run is over.
    pub(super) fn dismiss(&mut self, outcome: Outcome, message: &str) {
        for worker in self.workers.keys().cloned().collect::<Vec<_>>() {
            let stop = v1::Stop {
                outcome: outcome.into(),
                message: message.to_owned(),
            };
            self.send(&worker, Body::Stop(stop));
            self.forget(&worker);
        }
    }

    /// Enters a phase, with the reason.
    pub(super) fn enter(&mut self, phase: Phase, reason: String) {
        let moved = phase.name() != self.phase.name();
        self.phase = phase;
        self.explain(reason, moved);
    }

    /// Says why the run is in its phase; logged only when it changed.
    pub(super) fn explain(&mut self, reason: String, moved: bool) {
        if moved || reason != self.reason {
            let text = format!("{}: {reason}", self.phase.name());
            self.reason = reason;
            self.log(Level::Info, text);
            let status = self.status();
            self.effects
                .push(Effect::Publish(v1::watch_run_response::Event::Status(
                    status,
                )));
        }
    }

    pub(super) fn log(&mut self, level: Level, text: String) {
        self.effects.push(Effect::Log(level, text));
    }

    pub(super) fn measure(&mut self, measure: Measure) {
        self.effects.push(Effect::Measure(measure));
    }

    /// `rank 2 (worker-c)`, for people.
    pub(super) fn named(&self, worker: &WorkerId) -> String {
        match self.members.iter().position(|member| member == worker) {
            Some(rank) => format!("rank {rank} ({worker})"),
            None => worker.to_string(),
        }
    }

    /// Workers that may still act in `generation`.
    pub(super) fn bound_to(&self, generation: Generation) -> Vec<WorkerId> {
        let bound = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.bound == Some(generation));
        bound.map(|(id, _)| id.clone()).collect()
    }
}
