//! Journal, term and fence, explored exhaustively: up to three coordinators that contend for office over
//! one journal, up to two workers, and a network that delays, loses and repeats.
//!
//! The simulation runs whole runs and draws what happens; this tries everything that can happen to the
//! few rules that membership rests on. A worker is the real [`ringmaster_agent::Agent`]. The journal
//! holds real records, and what they add up to is the coordinator's own
//! [`ringmaster_coordinator::replay`]. The rest is a model, and names the file that it stands for:
//! `office.rs` a coordinator, `worker.rs` a worker's trainer thread, `model.rs` store
//! and network; `rules.rs` has what is to hold.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod model;
mod office;
mod rules;
mod worker;

use model::{Broken, Protocol};
use rules::{PROPERTIES, Rule};
use stateright::{Checker, HasDiscoveries, Model};

/// Of one checker.
const THREADS: usize = 2;

/// Two coordinators, two workers, two generations, and no guard missing.
const WHOLE: Protocol = Protocol {
    broken: None,
    offices: 2,
    workers: 2,
    generations: 2,
    accidents: None,
    begun: false,
};

/// Tries everything.
fn assert_holds(protocol: Protocol) {
    let checker = protocol.clone().checker().threads(THREADS);
    let checker = checker.spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{protocol:?}: {states} states, {depth} steps deep");
    checker.assert_properties();
}

#[test]
fn every_rule_holds_while_three_coordinators_contend() {
    assert_holds(Protocol {
        offices: 3,
        workers: 1,
        generations: 1,
        ..WHOLE
    });
}

#[test]
fn every_rule_holds_while_two_coordinators_form_the_first_generation() {
    assert_holds(Protocol {
        generations: 1,
        ..WHOLE
    });
}

#[test]
fn every_rule_holds_from_generation_to_generation() {
    assert_holds(Protocol {
        offices: 1,
        generations: 3,
        begun: true,
        ..WHOLE
    });
}

#[test]
fn every_rule_holds_when_a_coordinator_takes_over_a_generation() {
    // With as many accidents as can be, these are more states than a test has time for.
    assert_holds(Protocol {
        accidents: Some(1),
        begun: true,
        ..WHOLE
    });
}

/// With one guard gone, the checker finds a way to break `rule`, and this is how.
fn assert_breaks(broken: Broken, rule: Rule) {
    let protocol = Protocol {
        broken: Some(broken),
        ..WHOLE
    };
    let name = PROPERTIES[rule as usize].0;
    let checker = protocol.checker().threads(THREADS);
    let checker = checker
        .finish_when(HasDiscoveries::AnyOf([name].into()))
        .spawn_bfs()
        .join();
    let path = checker.discovery(name);
    let path = path.unwrap_or_else(|| panic!("{broken:?} breaks nothing: {name}"));
    println!("{broken:?}: {name}: {:#?}", path.into_actions());
}

#[test]
fn a_store_that_lets_a_second_create_through_breaks_the_chain() {
    assert_breaks(Broken::CreateOverwrites, Rule::OneChain);
}

#[test]
fn a_writer_that_takes_any_record_for_its_own_breaks_the_membership() {
    for rule in [Rule::OneInOffice, Rule::DurableFirst, Rule::OneMembership] {
        assert_breaks(Broken::TakesAnyRecordForItsOwn, rule);
    }
}

#[test]
fn a_coordinator_that_tells_before_it_has_recorded_breaks_durability() {
    assert_breaks(Broken::TellsBeforeItRecords, Rule::DurableFirst);
}

#[test]
fn a_worker_that_compares_no_terms_obeys_who_was_replaced() {
    assert_breaks(Broken::ComparesNoTerms, Rule::NewestTermOnly);
}

#[test]
fn a_worker_that_compares_no_terms_acts_in_what_it_left() {
    assert_breaks(Broken::ComparesNoTerms, Rule::FenceKept);
}

#[test]
fn a_trainer_that_steps_on_after_its_answer_breaks_the_fence() {
    assert_breaks(Broken::StepsOnAfterAFence, Rule::FenceKept);
}

#[test]
fn a_coordinator_that_ranks_the_silent_has_members_in_two_generations() {
    assert_breaks(Broken::RanksTheSilent, Rule::MembersAnswered);
}

#[test]
fn a_coordinator_that_takes_an_old_word_for_an_answer_has_members_in_two_generations() {
    assert_breaks(Broken::TakesOldWord, Rule::MembersAnswered);
}
