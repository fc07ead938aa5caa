//! The example run files are what they say.
#![allow(clippy::unwrap_used)]

use ringmaster_proto::RunSpec;

#[test]
fn scenes_toml_is_the_built_in_run_spelled_out() {
    let spelled_out = RunSpec::parse(include_str!("../examples/scenes.toml"), &[]).unwrap();
    let built_in = RunSpec::parse("", &[]).unwrap();
    assert_eq!(built_in.changes(&spelled_out), []);
}
