//! What goes wrong between real services: hosts that crash, links that are cut, held or lose messages, a
//! store that is away, a second coordinator. And the supervisors that start what has died.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use turmoil::Sim;

use super::hosts::{Dice, OFFICES, World};
use crate::world::Ms;

/// Faults happen until then; from then on a run must come to its end.
pub(crate) const UNTIL: Ms = 15_000;

/// How many of a link's messages are lost while it loses any.
const LOSS: f64 = 0.05;

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// A worker's host crashes.
    CrashWorker,
    /// All of them.
    CrashWorkers,
    /// A coordinator's host crashes.
    CrashOffice,
    /// And a worker's with it.
    CrashOfficeAndWorker,
    /// Another coordinator starts though one serves.
    SecondOffice,
    /// What is sent between a worker and the coordinators is lost.
    Cut(Ms),
    /// What a worker sends is.
    CutOneWay(Ms),
    /// What is sent between them waits.
    Hold(Ms),
    /// One message in twenty between them is lost, and its connection with it.
    Lose(Ms),
    /// A coordinator's host reaches no worker.
    Isolate(Ms),
    /// The store is away.
    Outage(Ms),
}

impl Fault {
    fn draw(dice: &Dice) -> Self {
        let while_ms = dice.number(50..9_000);
        match dice.number(0..13) {
            0 | 1 => Self::CrashWorker,
            2 => Self::CrashWorkers,
            3 | 4 => Self::CrashOffice,
            5 => Self::CrashOfficeAndWorker,
            6 | 7 => Self::Cut(while_ms),
            8 => Self::CutOneWay(while_ms),
            9 => Self::Hold(while_ms),
            10 => Self::Lose(while_ms),
            11 => Self::Isolate(while_ms),
            _ => Self::Outage(while_ms),
        }
    }
}

/// The faults of one run, and who is started again when.
pub(crate) struct Faults {
    dice: Dice,
    pub(crate) workers: Vec<String>,
    /// Whether a coordinator's host serves when it starts.
    pub(crate) serves: [Rc<Cell<bool>>; 2],
    ahead: BTreeMap<(Ms, usize), Fault>,
    /// Links that are not as they should be, until then.
    links: Vec<(Ms, String, &'static str)>,
    returns: Option<Ms>,
    restarts: BTreeMap<String, Ms>,
    healed: bool,
}

impl Faults {
    /// None to six; and where two coordinators contend, the second of them, and workers that lose the
    /// first and may find either.
    pub(crate) fn draw(world: &World) -> Self {
        let dice = world.dice(u64::MAX);
        let least = u64::from(world.plan.spec.membership.min_workers);
        let workers = dice.number(least..5);
        let ahead = (0..dice.number(0..7) as usize).map(|number| {
            let at = dice.number(500..UNTIL);
            ((at, number), Fault::draw(&dice))
        });
        let mut ahead: BTreeMap<_, _> = ahead.collect();
        if world.contended {
            let at = dice.number(2_000..6_000);
            ahead.insert((at, usize::MAX), Fault::SecondOffice);
            for number in 1..5 {
                let cut = Fault::Cut(dice.number(6_000..8_000));
                ahead.insert((at + dice.number(100..6_000), usize::MAX - number), cut);
            }
        }
        Self {
            ahead,
            dice,
            workers: (0..workers).map(|number| format!("w{number}")).collect(),
            serves: [true, false].map(|serves| Rc::new(Cell::new(serves))),
            links: Vec::new(),
            returns: None,
            restarts: BTreeMap::new(),
            healed: false,
        }
    }

    /// What is due happens.
    pub(crate) fn happen(&mut self, now: Ms, sim: &mut Sim<'_>, world: &World) {
        while let Some(entry) = self.ahead.first_entry().filter(|next| next.key().0 <= now) {
            let fault = entry.remove();
            world.trace(|| format!("fault: {fault:?}"));
            self.fail(fault, now, sim, world);
        }
        let over = self.links.extract_if(.., |(until, ..)| *until <= now);
        for (_, worker, office) in over.collect::<Vec<_>>() {
            mend(sim, &worker, office);
        }
        if self.returns.is_some_and(|returns| returns <= now) {
            self.returns = None;
            world.store.set_away(false);
        }
        if now >= UNTIL && !self.healed {
            self.healed = true;
            world.store.heal();
            for (_, worker, office) in std::mem::take(&mut self.links) {
                mend(sim, &worker, office);
            }
        }
    }

    fn fail(&mut self, fault: Fault, now: Ms, sim: &mut Sim<'_>, world: &World) {
        let workers: Vec<String> = self.workers.clone();
        let one = workers[self.dice.number(0..workers.len() as u64) as usize].clone();
        let offices = OFFICES.into_iter();
        let serving: Vec<&str> = offices.filter(|name| sim.is_host_running(*name)).collect();
        let office = self.dice.choose(&serving);
        match fault {
            Fault::CrashWorker => sim.crash(one),
            Fault::CrashWorkers => workers.into_iter().for_each(|name| sim.crash(name)),
            Fault::CrashOffice => office.into_iter().for_each(|name| sim.crash(name)),
            Fault::CrashOfficeAndWorker => {
                office.into_iter().for_each(|name| sim.crash(name));
                sim.crash(one);
            }
            Fault::SecondOffice => self.start_office(sim),
            Fault::Cut(milliseconds) => {
                for office in OFFICES {
                    sim.partition(one.as_str(), office);
                    self.links.push((now + milliseconds, one.clone(), office));
                }
            }
            Fault::CutOneWay(milliseconds) => {
                for office in OFFICES {
                    sim.partition_oneway(one.as_str(), office);
                    self.links.push((now + milliseconds, one.clone(), office));
                }
            }
            Fault::Hold(milliseconds) => {
                for office in OFFICES {
                    sim.hold(one.as_str(), office);
                    self.links.push((now + milliseconds, one.clone(), office));
                }
            }
            Fault::Lose(milliseconds) => {
                for office in OFFICES {
                    sim.set_link_fail_rate(one.as_str(), office, LOSS);
                    self.links.push((now + milliseconds, one.clone(), office));
                }
            }
            Fault::Isolate(milliseconds) => {
                for worker in workers {
                    if let Some(office) = office {
                        sim.partition(worker.as_str(), office);
                        self.links.push((now + milliseconds, worker, office));
                    }
                }
            }
            Fault::Outage(milliseconds) => {
                world.store.set_away(true);
                self.returns = Some(now + milliseconds);
            }
        }
    }

    /// Whoever has died, or was let go, is started again after a while.
    pub(crate) fn supervise(&mut self, now: Ms, sim: &mut Sim<'_>) {
        for name in self.workers.clone() {
            if sim.is_host_running(name.as_str()) {
                continue;
            }
            let after = || now + self.dice.number(200..2_500);
            if *self.restarts.entry(name.clone()).or_insert_with(after) <= now {
                self.restarts.remove(&name);
                sim.bounce(name);
            }
        }
        if !OFFICES.into_iter().any(|name| sim.is_host_running(name)) {
            let after = || now + self.dice.number(200..2_500);
            let at = self.restarts.entry(OFFICES[0].to_owned());
            if *at.or_insert_with(after) <= now {
                self.restarts.remove(OFFICES[0]);
                self.start_office(sim);
            }
        }
    }

    /// A coordinator starts on a host that has none.
    fn start_office(&mut self, sim: &mut Sim<'_>) {
        let free: Vec<usize> = (0..OFFICES.len())
            .filter(|number| !sim.is_host_running(OFFICES[*number]))
            .collect();
        if let Some(number) = self.dice.choose(&free) {
            self.serves[number].set(true);
            sim.bounce(OFFICES[number]);
        }
    }
}

/// The link is as it should be.
fn mend(sim: &mut Sim<'_>, worker: &str, office: &str) {
    sim.set_link_fail_rate(worker, office, 0.0);
    sim.repair(worker, office);
    sim.release(worker, office);
}
