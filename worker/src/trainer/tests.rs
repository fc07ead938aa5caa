//! The step with everything around it: its bits on any number of ranks, with and without overlap, and what
//! is left of it when it fails.

#![allow(clippy::unwrap_used)]

use std::thread;

use ringmaster_proto::Step;
use ringmaster_ring::{Membership as Links, Options, RingError, RingListener, Tag};

use super::*;
use crate::objective::Objective;
use crate::statistics::Statistics;
use crate::step_bench::made_up;

const LANES: u32 = 4;
const STEPS: u64 = 3;

/// Bucket number of what is known before a step is computed; see the engine.
const COUNTS: u32 = u32::MAX - 3;

/// Several buckets of 2^18 elements, the smallest there are.
fn spec(sets: &[&str]) -> Arc<RunSpec> {
    let small = [
        "train.bucket_mib=1",
        "train.digest_every=1",
        "train.dropout=0.1",
        "data.lanes=4",
        "data.lane_batch=2",
        "model.image_size=32",
        "model.text_layers=1",
        "model.fusion_layers=4",
        "model.decoder_layers=1",
    ];
    let sets = small.iter().chain(sets).map(ToString::to_string);
    Arc::new(RunSpec::parse("", &sets.collect::<Vec<_>>()).unwrap())
}

fn trainer(spec: &Arc<RunSpec>) -> Trainer {
    let trainer = Trainer::new(Arc::clone(spec), STEPS, &Device::flex());
    assert!(trainer.layout.total > 3 << 18, "several buckets");
    trainer
}

/// What `rank` is fed in `step`: a contiguous part of the lanes, none where there are more ranks.
fn input(spec: &RunSpec, step: u64, (rank, world): (u32, u32)) -> StepInput {
    let per_rank = LANES.div_ceil(world);
    let lanes = (0..LANES).filter(|lane| lane / per_rank == rank);
    let mut statistics = Statistics::default();
    let micro = |lane| {
        let micro = made_up(spec, lane + LANES * step as u32);
        let micro = crate::feeder::MicroBatch { lane, ..micro };
        statistics.count_tokens(Objective::Captioning, micro.tokens.counted());
        statistics.rows += micro.rows as i64;
        (Objective::Captioning, micro)
    };
    StepInput {
        step: Step(step),
        lanes: lanes.map(micro).collect(),
        statistics,
        refused: Vec::new(),
    }
}

/// Forms a ring and gives every rank its end of it.
fn on_ring<T: Send>(world: u32, body: impl Fn(u32, Membership) -> T + Sync) -> Vec<T> {
    let bind = |_| RingListener::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let listeners: Vec<RingListener> = (0..world).map(bind).collect();
    let addrs: Vec<_> = listeners.iter().map(RingListener::local_addr).collect();
    let member = |rank: u32, listener: &RingListener| {
        let abort = Abort::new();
        let links = Links {
            run: "test".into(),
            generation: 1,
            rank: rank as usize,
            addrs: addrs.clone(),
            secret: [0; 32],
        };
        Membership {
            collective: Collective::default(),
            ring: Ring::form(listener, links, Options::default(), &abort).unwrap(),
            abort,
            drain: Arc::default(),
            saving: Arc::default(),
            save: false,
            tax: Arc::default(),
            doing: Doing::new(),
        }
    };
    thread::scope(|scope| {
        let rank = |(rank, listener)| {
            let (body, member) = (&body, &member);
            scope.spawn(move || body(rank, member(rank, listener)))
        };
        let ranks: Vec<_> = (0..world).zip(&listeners).map(rank).collect();
        let ends = ranks.into_iter().map(|rank| rank.join().unwrap());
        ends.collect()
    })
}

/// What the steps of a run came to, bit for bit: loss, norm and digest of each.
type Curve = Vec<(u64, u64, String)>;

/// A run on `world` ranks, which agree on everything.
fn run(spec: &Arc<RunSpec>, world: u32) -> Curve {
    let rank = |rank, mut member: Membership| -> Curve {
        let mut trainer = trainer(spec);
        let step = |step| {
            let input = input(spec, step, (rank, world));
            let (done, _) = trainer.learn(&input, &mut member).unwrap();
            assert!(done.exposed_seconds >= 0.0 && done.reduce_seconds > 0.0);
            (done.loss.to_bits(), done.grad_norm.to_bits(), done.digest)
        };
        (0..STEPS).map(step).collect()
    };
    let mut curves = on_ring(world, rank);
    let curve = curves.pop().unwrap();
    assert!(curves.iter().all(|other| *other == curve));
    curve
}

#[test]
fn neither_overlap_nor_the_world_changes_a_bit() {
    let (on, off) = (spec(&[]), spec(&["train.overlap=false"]));
    let alone = run(&on, 1);
    assert_ne!(alone[0].0, alone[2].0, "the steps change the model");
    assert_eq!(run(&off, 1), alone, "one rank");
    // Of six ranks two have no lane.
    for world in [2, 4, 6] {
        assert_eq!(run(&on, world), alone, "{world} ranks");
    }
    assert_eq!(run(&off, 2), alone, "two ranks without overlap");
}

#[test]
fn overlap_changes_no_bit_where_the_world_does() {
    for reduction in ["train.reduction=f32", "train.reduction=bf16"] {
        let on = run(&spec(&[reduction]), 2);
        let off = run(&spec(&[reduction, "train.overlap=false"]), 2);
        assert_eq!(on, off, "{reduction}");
    }
}

#[test]
fn a_bad_value_of_one_rank_skips_the_step_on_all() {
    for overlap in ["train.overlap=true", "train.overlap=false"] {
        let spec = spec(&[overlap]);
        let rank = |rank, mut member: Membership| {
            let mut trainer = trainer(&spec);
            let before = trainer.state().unwrap().0.parameters.clone();
            let mut input = input(&spec, 0, (rank, 2));
            if rank == 1 {
                input.lanes[0].1.tokens.weight[0] = f32::NAN;
            }
            let (done, _) = trainer.learn(&input, &mut member).unwrap();
            assert!(done.skipped);
            let (state, _) = trainer.state().unwrap();
            assert!(state.parameters == before, "rank {rank} has changed");
            (done.digest, state.step, state.updates)
        };
        let ends = on_ring(2, rank);
        assert_eq!(ends[0], ends[1], "{overlap}");
        assert_eq!((ends[0].1, ends[0].2), (1, 0), "{overlap}");
    }
}

#[test]
fn an_abort_in_the_middle_of_a_step_changes_nothing() {
    let spec = spec(&[]);
    let undisturbed = run(&spec, 1);
    let (tell, told) = std::sync::mpsc::sync_channel::<Abort>(1);
    let told = std::sync::Mutex::new(told);
    let ends = on_ring(2, |rank, mut member| {
        if rank == 1 {
            // Takes part up to the second bucket, then rank 0 is told to stop.
            let ring = &mut member.ring;
            let counts = Statistics::default().counts().len();
            ring.all_reduce_i64(Tag::new(0, COUNTS), &mut vec![0; counts])
                .unwrap();
            let (mut exact, mut out) = (vec![0; 1 << 18], vec![0.0; 1 << 18]);
            ring.all_reduce_exact(Tag::new(0, 0), &mut exact, &mut out, 1.0)
                .unwrap();
            told.lock().unwrap().recv().unwrap().abort("a test");
            return None;
        }
        tell.send(member.abort.clone()).unwrap();
        let mut trainer = trainer(&spec);
        let before = trainer.state().unwrap().0.clone();
        let everything = input(&spec, 0, (0, 1));
        let error = trainer.learn(&everything, &mut member).unwrap_err();
        let aborted = matches!(error, WorkerError::Ring(RingError::Aborted { .. }));
        assert!(aborted, "{error}");
        assert!(*trainer.state().unwrap().0 == before, "the state changed");
        Some(trainer)
    });
    // The step is computed again in another generation.
    let trainer = std::sync::Mutex::new(ends.into_iter().flatten().next().unwrap());
    let again = on_ring(1, |_, mut member| {
        let everything = input(&spec, 0, (0, 1));
        let mut trainer = trainer.lock().unwrap();
        trainer.learn(&everything, &mut member).unwrap().0.digest
    });
    assert_eq!(again, [undisturbed[0].2.clone()]);
}
