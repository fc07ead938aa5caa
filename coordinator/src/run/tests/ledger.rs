//! Who owns a step: the last generation that covers it.

use super::harness::{Net, held};

#[test]
fn a_step_that_is_done_again_is_on_record_of_the_generation_that_did_it_last() {
    let mut net = Net::training(&["a", "b", "c"], &["membership.min_workers=2"]);
    net.steps(5);
    let first = net.last_generation().generation.0;
    net.step("b");
    net.link_lost("a", 1);
    assert_eq!(net.last_generation().resume, held(5), "b is alone ahead");
    net.steps(2);
    let on_record = net.record.lines.iter();
    let owners: Vec<(u64, u64)> = on_record.map(|line| (line.step, line.generation)).collect();
    assert_eq!(owners[4..], [(5, first), (6, first + 1), (7, first + 1)]);
}
