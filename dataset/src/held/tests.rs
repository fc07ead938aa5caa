//! Rows come as the plan says, whatever room there is for them and whoever has asked for them before.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use proptest::prelude::*;
use ringmaster_proto::spec::Columns;
use ringmaster_proto::{Rank, RunSpec, WorldSize};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;
use crate::images::Form;
use crate::import::{Row, ShardWriter};
use crate::window::LaneWindows;
use crate::{
    Corpus, CorpusManifest, Loader, LoaderOptions, StepBatch, Store, Texts, lanes_of_rank, prepare,
    standby_lanes, thumbnail,
};

/// Shards below `folder` of at most `per_shard` rows with these pictures.
fn write(folder: &Path, pictures: impl Iterator<Item = Vec<u8>>, per_shard: u64) {
    std::fs::create_dir_all(folder).unwrap();
    let mut writer = ShardWriter::new(Some(per_shard));
    let rows = pictures.map(|picture| Row {
        image: picture.into(),
        texts: Texts {
            caption: Some("x".into()),
            ..Texts::default()
        },
        ..Row::default()
    });
    let mut shards: Vec<_> = rows.filter_map(|row| writer.push(row).unwrap()).collect();
    shards.extend(writer.end_shard().unwrap());
    for (number, shard) in shards.iter().enumerate() {
        std::fs::write(folder.join(format!("{number:03}.parquet")), shard).unwrap();
    }
}

impl Held {
    /// Waits for everything that is on its way; how many bytes of rows are there.
    async fn settle(&self) -> u64 {
        let windows: Vec<_> = self.windows().values().cloned().collect();
        let mut bytes = 0;
        for window in windows {
            let rows = window.rows().await.unwrap();
            bytes += rows
                .rows
                .iter()
                .flatten()
                .map(EncodedRow::bytes)
                .sum::<u64>();
        }
        bytes
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// The oracle is the plan and what was written; a few rows are much larger than most, so that what
    /// is expected of a window is wrong.
    #[test]
    fn what_is_held_fits_the_room_there_is_and_rows_are_the_same_in_any(
        lengths in prop::collection::vec(
            prop_oneof![9 => 8_usize..300, 1 => 5_000_usize..40_000], 1..80,
        ),
        per_shard in 3_u64..40,
        lanes in 1_u32..4,
        lane_batch in 1_u32..4,
        window in 1_u64..12,
        room in prop_oneof![Just(0_u64), 0_u64..20_000, 20_000_u64..400_000, Just(u64::MAX)],
    ) {
        let folder = tempfile::tempdir().unwrap();
        let picture = |(row, length): (usize, &usize)| {
            let mut picture = row.to_le_bytes().to_vec();
            picture.resize(*length, 7);
            picture
        };
        write(folder.path(), lengths.iter().enumerate().map(picture), per_shard);
        let runtime = Runtime::new().unwrap();
        let (urls, columns) = ([folder.path().display().to_string()], Columns::default());
        let manifest = CorpusManifest::open(&urls, &columns, "", |_, _| {});
        let manifest = Arc::new(runtime.block_on(manifest).unwrap());
        let spec = PlanSpec { seed: 1, lanes, lane_batch, shuffle_rows: window * u64::from(lanes) };
        let plan = Arc::new(Plan::new(manifest.row_groups(), spec).unwrap());
        let reader = Arc::new(Reader::new(manifest, &columns).unwrap());
        let held = Arc::new(Held::new(&plan, &reader, 1));
        held.set_room(room, 0);
        let to = Step(2 * plan.steps_per_epoch());
        let ends = || (CancellationToken::new(), runtime.handle().clone());
        let mut windows: Vec<LaneWindows> = (0..lanes)
            .map(|lane| LaneWindows::start(&held, Lane(lane), (Step(0), to), ends()))
            .collect();
        for step in (0..to.0).map(Step) {
            for lane in &mut windows {
                let found = lane.step(step).unwrap();
                let rows: Vec<_> = found.iter().map(|row| row.as_ref().map(|row| row.0)).collect();
                prop_assert_eq!(rows, plan.rows(step, lane.lane()));
                for (row, stored) in found.into_iter().flatten() {
                    let row = row.row_id as usize;
                    prop_assert_eq!(stored.image, Some(picture((row, &lengths[row])).into()));
                }
            }
            prop_assert!(held.own.taken() <= room);
            let bytes = runtime.block_on(held.settle());
            prop_assert!(bytes <= held.own.taken(), "{bytes} of {}", held.own.taken());
            let whole = room == u64::MAX;
            prop_assert!(!whole || bytes > 0);
        }
    }
}

const LANES: u32 = 6;
const SIDE: usize = 4;

/// A corpus of 90 rows in lanes whose windows are shorter and longer than two steps.
fn corpus(folder: &TempDir, window: u64, runtime: &Runtime) -> Corpus {
    let rows = folder.path().join("rows");
    if !rows.exists() {
        let pixels =
            |row: u8| (0..3 * (SIDE * SIDE) as u8).map(move |at| row ^ at.wrapping_mul(29));
        let pictures = (0..90).map(|row| thumbnail(&pixels(row).collect::<Vec<_>>(), 64).unwrap());
        write(&rows, pictures, 20);
    }
    let text = format!(
        "[run]\nname = \"test\"\nepochs = 3\n[data]\nsources = [{{ url = {rows:?} }}]\n\
         lanes = {LANES}\nlane_batch = 2\nshuffle_rows = {}\nvalidation = 0.0\n",
        window * u64::from(LANES)
    );
    let spec = RunSpec::parse(&text, &[]).unwrap();
    let root = Store::open(folder.path().join("run").to_str().unwrap()).unwrap();
    runtime.block_on(async {
        let prepared = prepare(&spec, &root, &()).await.unwrap();
        let (corpus, tokenizer) = (&prepared.corpus_hash, &prepared.tokenizer_hash);
        Corpus::open(&spec, &root, corpus, "", tokenizer)
            .await
            .unwrap()
    })
}

fn load(
    corpus: &Corpus,
    lanes: Range<u32>,
    standby: Vec<u32>,
    from: u64,
    runtime: &Runtime,
) -> impl Iterator<Item = StepBatch> + use<> {
    let options = LoaderOptions {
        lanes,
        standby,
        from: Step(from),
        to: Step(corpus.total_steps),
        image_size: SIDE,
        dct_scaling: false,
        augment: None,
        form: Form::Bytes,
        prefetch_steps: 2,
        threads: 1,
    };
    let mut loader = Loader::start(corpus, options, runtime.handle());
    std::iter::from_fn(move || loader.next_blocking()).map(Result::unwrap)
}

/// The store is taken away with the dead rank, so that a read would be an error.
#[test]
fn after_a_death_the_next_two_steps_of_the_survivors_need_no_read() {
    let runtime = Runtime::new().unwrap();
    let world = WorldSize(3);
    for (window, step) in [(3, 4), (5, 0), (5, 6), (5, 7), (15, 11), (40, 19)] {
        for dead in 0..world.0 {
            for rank in (0..world.0).filter(|rank| *rank != dead) {
                let folder = tempfile::tempdir().unwrap();
                let undisturbed = corpus(&folder, window, &runtime);
                let after = lanes_of_rank(LANES, Rank(rank - u32::from(rank > dead)), WorldSize(2));
                let oracle: Vec<_> = load(&undisturbed, after.clone(), Vec::new(), step, &runtime)
                    .take(2)
                    .collect();

                let corpus = corpus(&folder, window, &runtime);
                let own = lanes_of_rank(LANES, Rank(rank), world);
                let standby = standby_lanes(LANES, Rank(rank), world);
                // What is trained is behind what is loaded.
                let read = step as usize + 3;
                let mut before = load(&corpus, own, standby, 0, &runtime);
                assert_eq!(before.by_ref().take(read).count(), read);
                drop(before);
                runtime.block_on(corpus.held.settle());
                std::fs::rename(folder.path().join("rows"), folder.path().join("away")).unwrap();
                let found = load(&corpus, after, Vec::new(), step, &runtime).take(2);
                assert_eq!(found.collect::<Vec<_>>(), oracle, "{rank} after {dead}");
            }
        }
    }
}

#[test]
fn without_standby_a_lane_taken_over_has_to_be_read() {
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let corpus = corpus(&folder, 5, &runtime);
    assert_eq!(
        load(&corpus, 0..2, Vec::new(), 0, &runtime).take(3).count(),
        3
    );
    std::fs::rename(folder.path().join("rows"), folder.path().join("away")).unwrap();
    let options = LoaderOptions {
        lanes: 0..3,
        standby: Vec::new(),
        from: Step(3),
        to: Step(5),
        image_size: SIDE,
        dct_scaling: false,
        augment: None,
        form: Form::Bytes,
        prefetch_steps: 1,
        threads: 1,
    };
    let mut loader = Loader::start(&corpus, options, runtime.handle());
    let error = loader.next_blocking().unwrap().unwrap_err().to_string();
    assert!(error.contains("gone since the run began"), "{error}");
}

#[test]
fn a_worker_without_lanes_holds_nothing_and_a_larger_share_has_more_room() {
    let spec = PlanSpec {
        seed: 1,
        lanes: 8,
        lane_batch: 16,
        shuffle_rows: 8 * 2048,
    };
    assert_eq!(rows_bytes(&spec, 100_000, 0, 0), (0, 0));
    let (own, standby) = rows_bytes(&spec, 100_000, 2, 3);
    // Two windows and more, one window and more.
    assert!(
        own > 2 * 2 * 2048 * 100_000 && own < 3 * 2 * 2048 * 100_000,
        "{own}"
    );
    assert!(
        standby > 3 * 2048 * 100_000 && standby < 2 * 3 * 2048 * 100_000,
        "{standby}"
    );
}
