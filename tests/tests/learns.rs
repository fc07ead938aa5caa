//! The default run learns to look: answers need the picture.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use ringmaster_tests::sandbox::Sandbox;

const RINGMASTER: &str = env!("CARGO_BIN_EXE_ringmaster-under-test");

/// What two cores do in about 90 seconds; the full run is `ringmaster train`.
const STEPS: &str = "run.steps=300";

#[test]
fn held_out_answers_need_the_picture() {
    let sandbox = Sandbox::new(RINGMASTER);
    let args = [
        "train",
        "--workers",
        "2",
        "--set",
        STEPS,
        "--set",
        "run.name=learns",
    ];
    let finished = sandbox
        .run(args.iter().chain(&["--output", "json"]))
        .succeeded();
    let end = finished.last_object();
    let number = |name: &str| {
        end[name]
            .as_f64()
            .unwrap_or_else(|| panic!("{name} in {end}"))
    };
    let baseline = number("baseline_exact_match");
    let (right, shuffled) = (number("exact_match"), number("shuffled_exact_match"));
    assert!(
        right > baseline + 0.10,
        "better than the most frequent answer per template: {end}"
    );
    assert!(
        (shuffled - baseline).abs() < 0.08,
        "with another picture it is a guess: {end}"
    );
    let (caption, other) = (number("caption_loss"), number("shuffled_caption_loss"));
    assert!(
        caption < 0.9 * other,
        "a caption fits its own picture better: {end}"
    );
    sandbox.assert_nothing_left();
}
