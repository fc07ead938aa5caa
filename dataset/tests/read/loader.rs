//! Position is the step alone, and every row arrives as it was written.

use std::collections::BTreeMap;
use std::ops::Range;

use proptest::prelude::*;
use ringmaster_dataset::decode::Decoder;
use ringmaster_dataset::{
    Corpus, Form, LaneBatch, Loader, LoaderOptions, StepBatch, View, normalise, read_rows,
    read_texts,
};
use ringmaster_proto::spec::Augment;
use ringmaster_proto::{Lane, RunSpec, Step};
use tokio::runtime::Runtime;

use crate::corpora::{SIDE, caption, open, pixels, png, spec, write_corpus};

struct Bench {
    spec: RunSpec,
    corpus: Corpus,
    runtime: Runtime,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new(counts: &[usize], group_rows: usize, data: &str) -> Self {
        Self::with_pictures(counts, group_rows, data, |id| png(&pixels(id), SIDE, SIDE))
    }

    fn with_pictures(
        counts: &[usize],
        group_rows: usize,
        data: &str,
        picture: impl Fn(u64) -> Vec<u8>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write_corpus(&folder.path().join("corpus"), counts, group_rows, picture);
        let spec = spec(&folder.path().join("corpus"), data, "epochs = 2");
        let runtime = Runtime::new().unwrap();
        let corpus = runtime.block_on(open(&spec, &folder.path().join("run")));
        Self {
            spec,
            corpus,
            runtime,
            _folder: folder,
        }
    }

    /// With as many threads as there are lanes: their number must change nothing.
    fn load(&self, lanes: Range<u32>, from: u64, to: u64) -> Vec<StepBatch> {
        self.load_with((Form::Bytes, None), lanes, from, to)
    }

    fn load_with(
        &self,
        (form, augment): (Form, Option<&Augment>),
        lanes: Range<u32>,
        from: u64,
        to: u64,
    ) -> Vec<StepBatch> {
        let threads = lanes.len();
        let options = LoaderOptions {
            lanes,
            standby: Vec::new(),
            from: Step(from),
            to: Step(to),
            image_size: SIDE,
            dct_scaling: false,
            augment: augment.cloned(),
            form,
            prefetch_steps: 2,
            threads,
        };
        let mut loader = Loader::start(&self.corpus, options, self.runtime.handle());
        std::iter::from_fn(|| loader.next_blocking())
            .map(Result::unwrap)
            .collect()
    }
}

/// What stands in for a picture that is not there.
const GREY: [u8; SIDE * SIDE * 3] = [128; SIDE * SIDE * 3];

/// The pictures of a lane, one for each of its examples.
fn pictures(batch: &LaneBatch) -> impl Iterator<Item = &[u8]> {
    let bytes = batch.images.as_bytes();
    bytes.chunks(bytes.len() / batch.examples.len())
}

fn data(lanes: u32, lane_batch: u32, shuffle_rows: u64) -> String {
    format!(
        "lanes = {lanes}\nlane_batch = {lane_batch}\n\
         shuffle_rows = {shuffle_rows}\nvalidation = 0.0"
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// The oracle is the plan: each batch holds, lane by lane, the rows the plan names, each with
    /// the picture and caption its number was written with; and no start and no split of the lanes
    /// changes anything.
    #[test]
    fn batches_are_the_plan_from_any_step_and_for_any_split_of_lanes(
        counts in prop::collection::vec(1_usize..30, 1..4),
        group_rows in 1_usize..12,
        lanes in 1_u32..5,
        lane_batch in 1_u32..5,
        window in 1_u64..12,
        start in 0.0_f64..1.0,
        cut in 0_u32..5,
    ) {
        let bench =
            Bench::new(&counts, group_rows, &data(lanes, lane_batch, window * u64::from(lanes)));
        let steps = bench.corpus.total_steps;
        prop_assert_eq!(steps, 2 * bench.corpus.plan.steps_per_epoch());
        let whole = bench.load(0..lanes, 0, steps);
        prop_assert_eq!(whole.len() as u64, steps);
        for (step, batch) in (0..).map(Step).zip(&whole) {
            prop_assert_eq!(batch.step, step);
            for (lane, batch) in (0..).map(Lane).zip(&batch.lanes) {
                prop_assert_eq!(batch.lane, lane);
                let rows: Vec<_> = batch.examples.iter().map(|example| example.row).collect();
                prop_assert_eq!(rows, bench.corpus.plan.rows(step, lane));
                prop_assert_eq!(batch.examples.len(), lane_batch as usize);
                for (example, picture) in batch.examples.iter().zip(pictures(batch)) {
                    prop_assert!(example.refused.is_none() && example.image.is_empty());
                    let Some(row) = example.row else {
                        prop_assert_eq!(example.weight, 0.0);
                        prop_assert_eq!(picture, GREY);
                        continue;
                    };
                    prop_assert_eq!(example.weight, 1.0);
                    prop_assert_eq!(picture, pixels(row.row_id));
                    prop_assert_eq!(example.caption.clone(), Some(caption(row.row_id)));
                }
            }
        }
        let from = (start * steps as f64) as u64;
        prop_assert_eq!(&bench.load(0..lanes, from, steps), &whole[from as usize..]);
        let cut = cut.min(lanes);
        let left = bench.load(0..cut, 0, steps);
        let right = bench.load(cut..lanes, 0, steps);
        for ((left, right), whole) in left.into_iter().zip(right).zip(whole) {
            let lanes: Vec<_> = left.lanes.into_iter().chain(right.lanes).collect();
            prop_assert_eq!(lanes, whole.lanes);
        }
    }
}

/// The oracle takes the views one by one: what a row shows depends on its place in the run alone.
#[test]
fn augmented_pictures_replay_bit_for_bit_from_any_step_and_for_any_split_of_lanes() {
    let bench = Bench::new(&[20, 17], 7, &data(3, 4, 12));
    let augment = Augment {
        scale: Some([0.2, 0.9]),
        ratio: [0.5, 2.0],
        flip: 0.5,
    };
    let steps = bench.corpus.total_steps;
    let load = |lanes, from| bench.load_with((Form::Bytes, Some(&augment)), lanes, from, steps);
    let whole = load(0..3, 0);
    let (mut decoder, mut changed, mut seen) = (Decoder::new(SIDE), 0, BTreeMap::new());
    for batch in &whole {
        for lane in &batch.lanes {
            for (position, (example, shown)) in (0..).zip(lane.examples.iter().zip(pictures(lane)))
            {
                let Some(row) = example.row else { continue };
                let view = View::draw(
                    Some(&augment),
                    bench.spec.run.seed,
                    (batch.step, lane.lane, position),
                );
                let picture = png(&pixels(row.row_id), SIDE, SIDE);
                assert_eq!(shown, decoder.decode_view(&picture, &view).unwrap());
                assert_eq!(example.caption, Some(caption(row.row_id)));
                changed += u32::from(shown != pixels(row.row_id));
                seen.entry(row.row_id)
                    .or_insert_with(Vec::new)
                    .push(shown.to_vec());
            }
        }
    }
    assert!(changed > 60, "{changed} of 74 rows");
    let differ = seen
        .values()
        .filter(|images| images[0] != images[1])
        .count();
    assert!(
        differ > 30,
        "{differ} of 37 rows look otherwise in the second epoch"
    );
    for from in [1, 3, steps - 1] {
        assert_eq!(load(0..3, from), whole[from as usize..]);
    }
    for cut in 1..3 {
        let (left, right) = (load(0..cut, 0), load(cut..3, 0));
        for ((left, right), whole) in left.into_iter().zip(right).zip(&whole) {
            let lanes: Vec<_> = left.lanes.into_iter().chain(right.lanes).collect();
            assert_eq!(lanes, whole.lanes);
        }
    }
}

#[test]
fn a_row_of_refused_content_becomes_a_zero_weight_row_and_nothing_else_changes() {
    let bad = |id: u64| [3, 11, 12].contains(&id);
    let picture = move |id: u64| {
        let whole = png(&pixels(id), SIDE, SIDE);
        if bad(id) {
            whole[..whole.len() / 2].to_vec()
        } else {
            whole
        }
    };
    let data = data(2, 3, 8);
    let bench = Bench::with_pictures(&[10, 10], 4, &data, picture);
    let clean = Bench::new(&[10, 10], 4, &data);
    let mut refused = 0;
    for (batch, clean) in bench
        .load(0..2, 0, 4)
        .into_iter()
        .zip(clean.load(0..2, 0, 4))
    {
        let [of_batch, of_clean] = [&batch, &clean].map(|batch| {
            let lanes = batch.lanes.iter();
            lanes.flat_map(|lane| lane.examples.iter().zip(pictures(lane)))
        });
        for ((example, picture), (clean, of_clean)) in of_batch.zip(of_clean) {
            assert_eq!(example.row, clean.row);
            if example.row.is_some_and(|row| bad(row.row_id)) {
                assert!(
                    example.refused.is_some() && example.weight == 0.0 && example.caption.is_none()
                );
                assert_eq!(picture, GREY);
                refused += 1;
            } else {
                assert_eq!((example, picture), (clean, of_clean));
            }
        }
    }
    assert_eq!(refused, 3);
    // The same normalised: what the training would have made of the bytes.
    let whole = bench.load(0..2, 0, 4);
    let values = bench.load_with((Form::Values, None), 0..2, 0, 4);
    for (batch, bytes) in values.iter().zip(&whole) {
        for (lane, bytes) in batch.lanes.iter().zip(&bytes.lanes) {
            assert_eq!(lane.images.form(), Form::Values);
            assert_eq!(lane.examples, bytes.examples);
            for (values, bytes) in pictures(lane).zip(pictures(bytes)) {
                let mut expected = [0.0_f32; GREY.len()];
                normalise(bytes, &mut expected);
                assert_eq!(values, expected.map(f32::to_ne_bytes).as_flattened());
            }
        }
    }
}

#[test]
fn a_shard_that_changes_under_a_run_is_an_error_that_names_it() {
    let bench = Bench::new(&[12], 4, &data(1, 2, 4));
    let shard = bench._folder.path().join("corpus/part-000.parquet");
    write_corpus(shard.parent().unwrap(), &[13], 4, |id| {
        png(&pixels(id), SIDE, SIDE)
    });
    let options = LoaderOptions {
        lanes: 0..1,
        standby: Vec::new(),
        from: Step(0),
        to: Step(4),
        image_size: SIDE,
        dct_scaling: false,
        augment: None,
        form: Form::Bytes,
        prefetch_steps: 1,
        threads: 1,
    };
    let mut loader = Loader::start(&bench.corpus, options, bench.runtime.handle());
    let error = loader.next_blocking().unwrap().unwrap_err().to_string();
    assert!(
        error.contains("part-000.parquet: changed since the run began"),
        "{error}"
    );
    assert!(loader.next_blocking().is_none());
}

#[test]
fn steps_whose_rows_are_there_arrive_before_the_error_of_a_later_one() {
    let bench = Bench::new(&[12; 4], 4, &data(2, 2, 8));
    let plan = &bench.corpus.plan;
    // Four shards of three row groups: the first step that has to wait for a row of each.
    let needs = |step: u64, shard: u32| {
        let mut lanes = (0..2).map(Lane);
        lanes.any(|lane| {
            let slots = plan.slots(Step(step), lane).into_iter().flatten();
            let mut segments = slots.flat_map(|slot| plan.segments(lane, slot.window));
            segments.any(|segment| segment.row_group / 3 == shard)
        })
    };
    let first = |shard| (0..).find(|step| needs(*step, shard)).unwrap();
    let shard = (0..4).max_by_key(|shard| first(*shard)).unwrap();
    assert!(first(shard) > 2, "some steps come before");
    let file = bench
        ._folder
        .path()
        .join(format!("corpus/part-{shard:03}.parquet"));
    std::fs::remove_file(file).unwrap();
    let options = LoaderOptions {
        lanes: 0..2,
        standby: Vec::new(),
        augment: None,
        from: Step(0),
        to: Step(bench.corpus.total_steps),
        image_size: SIDE,
        dct_scaling: false,
        form: Form::Bytes,
        prefetch_steps: 1,
        threads: 2,
    };
    let mut loader = Loader::start(&bench.corpus, options, bench.runtime.handle());
    for step in (0..first(shard)).map(Step) {
        assert_eq!(loader.next_blocking().unwrap().unwrap().step, step);
    }
    let error = loader.next_blocking().unwrap().unwrap_err().to_string();
    assert!(
        error.contains(&format!("part-{shard:03}.parquet: gone")),
        "{error}"
    );
    assert!(loader.next_blocking().is_none());
}

#[test]
fn dropping_a_loader_that_nobody_reads_ends_it() {
    let bench = Bench::new(&[40], 4, &data(2, 1, 8));
    let options = LoaderOptions {
        lanes: 0..2,
        standby: Vec::new(),
        from: Step(0),
        to: Step(40),
        image_size: SIDE,
        dct_scaling: false,
        augment: None,
        form: Form::Bytes,
        prefetch_steps: 1,
        threads: 1,
    };
    drop(Loader::start(
        &bench.corpus,
        options,
        bench.runtime.handle(),
    ));
}

#[test]
fn rows_and_texts_are_read_in_manifest_order() {
    let bench = Bench::new(&[7, 9], 4, &data(1, 1, 1));
    let columns = &bench.spec.data.columns;
    let read = read_rows(&bench.corpus.train, columns, 5..100, SIDE);
    let examples = bench.runtime.block_on(read).unwrap();
    let ids: Vec<u64> = examples
        .iter()
        .map(|example| example.row.unwrap().row_id)
        .collect();
    assert_eq!(ids, (5..16).collect::<Vec<_>>());
    for (id, example) in ids.into_iter().zip(examples) {
        assert_eq!(example.image, pixels(id));
    }
    let mut captions = BTreeMap::new();
    let visit = |texts: ringmaster_dataset::Texts| {
        captions.insert(captions.len() as u64, texts.caption.unwrap());
    };
    bench
        .runtime
        .block_on(read_texts(&bench.corpus.train, columns, 9, visit))
        .unwrap();
    assert_eq!(captions, (0..9).map(|id| (id, caption(id))).collect());
}
