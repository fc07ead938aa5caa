//! What a worker computes, as a task that takes commands like the worker's trainer thread: it contributes
//! to each step, completes it when the sum has arrived, and stops when its ring breaks or it is told to.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ringmaster_agent::{Form, Reports};
use ringmaster_proto::v1::worker_report::Body;
use ringmaster_proto::v1::{self, Boundary, Origin};
use ringmaster_proto::{ErrorKind, Generation, WorkerId};
use tokio::sync::Notify;
use tokio::sync::mpsc::Receiver;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::hosts::{Dice, World};
use super::ring::{Broken, Seat};
use crate::checkpoint::{self, Unusable};
use crate::oracle::{State, contribution, loss};
use crate::ring::{Reduced, Share};
use crate::world::ProcessId;

/// How long a rank waits for the others to come.
const FORMING: Duration = Duration::from_secs(3);

/// What the agent tells it.
pub(crate) enum Command {
    Form(Form, Reins),
    Start(Generation),
    Fence(Generation),
}

/// How the agent reaches into a generation.
#[derive(Clone, Default)]
pub(crate) struct Reins {
    pub(crate) abort: CancellationToken,
    pub(crate) proposes: Rc<Cell<Boundary>>,
}

/// What it has to tell.
#[derive(Default)]
pub(crate) struct Outbox {
    pub(crate) reports: RefCell<Reports>,
    pub(crate) changed: Notify,
}

impl Outbox {
    pub(crate) fn put(&self, generation: Generation, body: Body) {
        self.reports.borrow_mut().put(generation, body);
        self.changed.notify_one();
    }

    /// The next report in order.
    pub(crate) async fn next(&self) -> (Generation, Body) {
        loop {
            if let Some(report) = self.reports.borrow_mut().take() {
                return report;
            }
            self.changed.notified().await;
        }
    }
}

/// One process's.
pub(crate) struct Trainer {
    pub(crate) world: Rc<World>,
    pub(crate) process: ProcessId,
    pub(crate) dice: Rc<Dice>,
    pub(crate) name: WorkerId,
    pub(crate) address: SocketAddr,
    pub(crate) outbox: Rc<Outbox>,
    pub(crate) state: Option<State>,
    /// The newest generation it said it would apply nothing more in.
    pub(crate) left: Generation,
}

/// Why a generation is over here.
enum Over {
    /// The agent said so, or wants something else.
    Told(Option<Command>),
    /// The ring is broken.
    Lost(u32),
    /// It has reported the reason.
    Said,
}

impl From<Broken> for Over {
    fn from(broken: Broken) -> Self {
        Self::Lost(broken.0)
    }
}

impl Trainer {
    pub(crate) async fn run(mut self, mut commands: Receiver<Command>) {
        while let Some(command) = commands.recv().await {
            let mut next = Some(command);
            while let Some(command) = next.take() {
                match command {
                    Command::Start(_) => {}
                    Command::Fence(generation) => self.fenced(generation, Boundary::Unspecified),
                    Command::Form(form, reins) => {
                        let generation = form.generation;
                        let over = self.generation(form, reins.clone(), &mut commands).await;
                        next = self.is_over(generation, &reins, over).await;
                    }
                }
            }
        }
    }

    /// Reports why a generation is over; returns what is to be done next, if it is known.
    async fn is_over(
        &mut self,
        generation: Generation,
        reins: &Reins,
        over: Over,
    ) -> Option<Command> {
        match over {
            Over::Told(next) => next,
            Over::Said => None,
            Over::Lost(accused_rank) => {
                let notice = self.dice.within(1..400);
                tokio::select! {
                    biased;
                    () = reins.abort.cancelled() => {}
                    () = sleep(notice) => {
                        let reason = "reset".to_owned();
                        let lost = v1::LinkLost { accused_rank, reason };
                        self.outbox.put(generation, Body::LinkLost(lost));
                    }
                }
                None
            }
        }
    }

    /// One generation, from its links to its end.
    async fn generation(
        &mut self,
        form: Form,
        reins: Reins,
        commands: &mut Receiver<Command>,
    ) -> Over {
        let abort = reins.abort.clone();
        if form.addresses.get(form.rank.0 as usize) != Some(&self.address) {
            // It is meant for an earlier process of this name: nobody finds it there.
            return Over::Lost(form.rank.0);
        }
        let mut seat = self.world.rings().join(&form, self.process, self.state);
        let formed = tokio::select! {
            biased;
            () = abort.cancelled() => return Over::Told(None),
            formed = self.form(&form, &seat) => formed,
        };
        if let Err(over) = formed {
            return over;
        }
        let held = self.held();
        let formed = Body::Formed(v1::Formed {
            held,
            ..Default::default()
        });
        self.outbox.put(form.generation, formed);
        loop {
            let command = tokio::select! {
                biased;
                () = abort.cancelled() => return Over::Told(None),
                command = commands.recv() => command,
                broken = seat.breaks() => return broken.into(),
            };
            match command {
                Some(Command::Start(generation)) if generation == form.generation => break,
                Some(Command::Start(_)) => {}
                other => return Over::Told(other),
            }
        }
        match self.train(&form, &reins, &mut seat).await {
            Err(over) => over,
            Ok(boundary) => {
                seat.farewell();
                self.fenced(form.generation, boundary);
                Over::Said
            }
        }
    }

    /// The links stand, and the state is there.
    async fn form(&mut self, form: &Form, seat: &Seat) -> Result<(), Over> {
        match timeout(FORMING, seat.complete()).await {
            Err(_) => return Err(Over::Lost(seat.missing())),
            Ok(complete) => complete?,
        }
        sleep(self.dice.within(20..700)).await;
        let resume = &form.resume;
        let state = match resume.origin() {
            Origin::Initial => Some(State::INITIAL),
            Origin::Memory => {
                let rank = form.rank.0;
                let own = resume.holders.contains(&rank).then_some(&rank);
                let source = own.or(resume.holders.first());
                source.and_then(|source| seat.state_of(*source))
            }
            Origin::Checkpoint => Some(self.load(form).await?),
            Origin::Unspecified => None,
        };
        let wanted = |state: &State| {
            resume.origin() == Origin::Initial
                || (state.step, state.hex()) == (resume.step, resume.digest.clone())
        };
        self.state = state.filter(wanted);
        if self.state.is_none() {
            let failed = v1::Failed {
                kind: ErrorKind::Rejoin.as_str().to_owned(),
                message: format!("the state is not that of step {}", resume.step),
            };
            self.outbox.put(form.generation, Body::Failed(failed));
            return Err(Over::Said);
        }
        Ok(())
    }

    async fn load(&self, form: &Form) -> Result<State, Over> {
        let key = &form.resume.checkpoint_key;
        loop {
            match checkpoint::load(&self.world.root, key).await {
                Ok(state) => return Ok(state),
                Err(Unusable::Yet) => sleep(Duration::from_millis(500)).await,
                Err(Unusable::Damaged(reason)) => {
                    self.world.object(format!("{key} is damaged: {reason}"));
                    return Err(Over::Said);
                }
            }
        }
    }

    /// Steps until a boundary that all ranks agree on.
    async fn train(
        &mut self,
        form: &Form,
        reins: &Reins,
        seat: &mut Seat,
    ) -> Result<Boundary, Over> {
        let (plan, saving) = (self.world.plan.clone(), Rc::new(Cell::new(false)));
        let (generation, rank, ranks) = (form.generation, form.rank.0, seat.world());
        let mut boundary = Boundary::Unspecified;
        while boundary == Boundary::Unspecified {
            let at = self.state.map_or(0, |state| state.step);
            if at >= plan.steps {
                boundary = Boundary::Finished;
                break;
            }
            let computing = sleep(self.dice.within(20..250));
            let share = Share {
                sum: contribution(at, plan.lanes, rank, ranks),
                proposes: reins.proposes.get(),
                saving: saving.get(),
            };
            let reduced = tokio::select! {
                biased;
                () = reins.abort.cancelled() => return Err(Over::Told(None)),
                reduced = async { computing.await; seat.reduce(share).await } => reduced?,
            };
            // A sum that has arrived is applied, or its update never began.
            let arriving = sleep(self.dice.within(1..120));
            let begun = tokio::select! {
                biased;
                () = reins.abort.cancelled() => self.dice.once_in(2),
                () = arriving => seat.broken().is_none() || self.dice.once_in(2),
            };
            if !begun {
                return Err(seat.broken().map_or(Over::Told(None), Over::Lost));
            }
            boundary = self.apply(generation, reduced);
            let due = |state: &State| state.step.is_multiple_of(plan.checkpoint_every);
            let due = self.state.filter(due).filter(|_| !reduced.saving);
            if let Some(state) = due.filter(|_| boundary == Boundary::Unspecified) {
                saving.set(true);
                let delay = self.dice.within(20..1_000);
                let (saving, outbox) = (saving.clone(), self.outbox.clone());
                let (root, of) = (self.world.root.clone(), (rank, ranks));
                tokio::task::spawn_local(async move {
                    sleep(delay).await;
                    let (bytes, written) = checkpoint::part(generation, state, of);
                    // A store that is away delays a checkpoint, never the training.
                    if root.put(&written.key, bytes).await.is_ok() {
                        outbox.put(generation, Body::PartWritten(written));
                    }
                    saving.set(false);
                });
            }
        }
        if matches!(boundary, Boundary::Stop | Boundary::Finished) {
            tokio::select! {
                biased;
                () = reins.abort.cancelled() => return Err(Over::Told(None)),
                () = self.save(generation, (rank, ranks)) => {}
            }
        }
        Ok(boundary)
    }

    /// The update: nothing stops it once it has begun. Returns the boundary the ranks agreed on.
    fn apply(&mut self, generation: Generation, reduced: Reduced) -> Boundary {
        let state = self.state.unwrap_or(State::INITIAL).after(reduced.sum);
        self.state = Some(state);
        let name = &self.name;
        if generation <= self.left {
            let text = format!("{name} applied a step in generation {generation}, which it left");
            self.world.object(text);
        }
        self.world.oracle().applied(name.as_str(), state);
        let digest = match state.step.is_multiple_of(self.world.plan.digest_every) {
            true => state.hex(),
            false => String::new(),
        };
        let done = v1::StepDone {
            step: state.step,
            loss: loss(reduced.sum),
            digest,
            ..Default::default()
        };
        self.outbox.put(generation, Body::StepDone(done));
        match state.step >= self.world.plan.steps {
            true => Boundary::Finished,
            false => reduced.boundary,
        }
    }

    /// Writes this rank's part of the state it ends with.
    async fn save(&self, generation: Generation, of: (u32, u32)) {
        let Some(state) = self.state else { return };
        let (bytes, written) = checkpoint::part(generation, state, of);
        while self
            .world
            .root
            .put(&written.key, bytes.clone())
            .await
            .is_err()
        {
            sleep(Duration::from_millis(500)).await;
        }
        self.outbox.put(generation, Body::PartWritten(written));
    }

    fn fenced(&mut self, generation: Generation, boundary: Boundary) {
        self.left = self.left.max(generation);
        let fenced = v1::Fenced {
            held: self.held(),
            boundary: boundary.into(),
        };
        self.outbox.put(generation, Body::Fenced(fenced));
    }

    fn held(&self) -> Option<v1::Held> {
        self.state.map(|state| v1::Held {
            step: state.step,
            digest: state.hex(),
        })
    }
}
