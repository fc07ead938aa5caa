//! Impossible values and combinations, each refused with its key and what would work.

use super::{Augment, Every, ImageEncoder, RunSpec, SpecError, Validation};
use crate::ids::is_name;

/// A smaller cache of the corpus holds too little to be worth a disk.
const CACHE_BYTES_MIN: u64 = 64 << 20;

fn refuse(key: &'static str, value: impl ToString, reason: &str) -> SpecError {
    SpecError::Value {
        key,
        value: value.to_string(),
        reason: reason.to_owned(),
    }
}

fn require(
    holds: bool,
    key: &'static str,
    value: impl ToString,
    reason: &str,
) -> Result<(), SpecError> {
    if holds {
        Ok(())
    } else {
        Err(refuse(key, value, reason))
    }
}

fn validate_augment(augment: &Augment) -> Result<(), SpecError> {
    let told = |[least, most]: [f64; 2]| format!("[{least}, {most}]");
    if let Some(scale @ [least, most]) = augment.scale {
        require(
            0.0 < least && least <= most && most <= 1.0,
            "data.augment.scale",
            told(scale),
            "must be [least, most] with 0 < least <= most <= 1",
        )?;
    }
    let ratio @ [narrow, wide] = augment.ratio;
    require(
        0.0 < narrow && narrow <= wide && wide.is_finite(),
        "data.augment.ratio",
        told(ratio),
        "must be [least, most] with 0 < least <= most",
    )?;
    require(
        (0.0..=1.0).contains(&augment.flip),
        "data.augment.flip",
        augment.flip,
        "must be 0 to 1",
    )
}

impl RunSpec {
    /// Refuses what cannot work.
    pub(super) fn validate(&self) -> Result<(), SpecError> {
        self.validate_run()?;
        self.validate_data()?;
        self.validate_model()?;
        self.validate_train()?;
        self.validate_tasks()?;
        self.validate_membership()
    }

    fn validate_run(&self) -> Result<(), SpecError> {
        let run = &self.run;
        require(
            is_name(&run.name),
            "run.name",
            &run.name,
            "use 1 to 63 of a-z, 0-9 and -",
        )?;
        match (run.steps, run.epochs) {
            (Some(steps), None) => require(steps > 0, "run.steps", steps, "must be at least 1"),
            (None, Some(epochs)) => require(epochs > 0, "run.epochs", epochs, "must be at least 1"),
            _ => Err(refuse(
                "run.steps",
                "and run.epochs",
                "give exactly one of the two",
            )),
        }
    }

    fn validate_data(&self) -> Result<(), SpecError> {
        let data = &self.data;
        let range = |n: u32, max: u32| (1..=max).contains(&n);
        require(
            !data.sources.is_empty(),
            "data.sources",
            "[]",
            "name at least one source",
        )?;
        require(
            range(data.lanes, 65_536),
            "data.lanes",
            data.lanes,
            "must be 1 to 65536",
        )?;
        let batch = data.lane_batch;
        require(
            range(batch, 65_536),
            "data.lane_batch",
            batch,
            "must be 1 to 65536",
        )?;
        let rows = data.shuffle_rows;
        require(
            rows >= u64::from(data.lanes),
            "data.shuffle_rows",
            rows,
            "must be at least data.lanes (one row per lane is no shuffling)",
        )?;
        if let Validation::Fraction(f) = data.validation {
            require(
                (0.0..1.0).contains(&f),
                "data.validation",
                f,
                "a fraction is 0 <= f < 1",
            )?;
        }
        if let Some(augment) = &data.augment {
            validate_augment(augment)?;
        }
        if let Some(cache) = &data.cache {
            let (path, bytes) = (&cache.path, cache.bytes);
            require(
                !path.is_empty(),
                "data.cache.path",
                "\"\"",
                "name a folder of the worker's machine",
            )?;
            require(
                bytes >= CACHE_BYTES_MIN,
                "data.cache.bytes",
                bytes,
                "must be at least 67108864 (64 MiB)",
            )?;
        }
        let bad = data.max_bad_fraction;
        require(
            (0.0..=1.0).contains(&bad),
            "data.max_bad_fraction",
            bad,
            "must be 0 to 1",
        )
    }

    fn validate_model(&self) -> Result<(), SpecError> {
        let m = &self.model;
        let at_least_one = [
            ("model.image_size", m.image_size),
            ("model.patch", m.patch),
            ("model.image_width", m.image_width),
            ("model.image_heads", m.image_heads),
            ("model.image_mlp_width", m.image_mlp_width),
            ("model.text_width", m.text_width),
            ("model.text_heads", m.text_heads),
            ("model.text_mlp_width", m.text_mlp_width),
            ("model.width", m.width),
            ("model.heads", m.heads),
            ("model.mlp_width", m.mlp_width),
            ("model.tokens", m.tokens),
            ("model.iterations", m.iterations),
            ("model.decoder_layers", m.decoder_layers),
            ("model.fusion_mlp_width", m.fusion_mlp_width),
        ];
        for (key, value) in at_least_one {
            require(
                (1..=65_536).contains(&value),
                key,
                value,
                "must be 1 to 65536",
            )?;
        }
        let divides = |a: usize, b: usize| b.is_multiple_of(a);
        let patched = m.image_encoder != ImageEncoder::Resnet50C4;
        let divisors = [
            ("model.patch", m.patch, m.image_size, "image_size", patched),
            (
                "model.image_heads",
                m.image_heads,
                m.image_width,
                "image_width",
                patched,
            ),
            (
                "model.text_heads",
                m.text_heads,
                m.text_width,
                "text_width",
                true,
            ),
            ("model.heads", m.heads, m.width, "width", true),
        ];
        for (key, a, b, of, read) in divisors {
            require(!read || divides(a, b), key, a, &format!("must divide {of}"))?;
        }
        require(
            !m.iterates() || divides(m.iterations, m.fusion_layers),
            "model.fusion_layers",
            m.fusion_layers,
            "must be a multiple of iterations: the layers are split over them",
        )?;
        for (key, len) in [
            ("model.text_len", m.text_len),
            ("model.target_len", m.target_len),
        ] {
            require((2..=65_536).contains(&len), key, len, "must be 2 to 65536")?;
        }
        require(
            m.vocab >= 300,
            "model.vocab",
            m.vocab,
            "a byte-level vocabulary needs 300 or more",
        )
    }

    fn validate_train(&self) -> Result<(), SpecError> {
        let t = &self.train;
        let finite = |x: f64| x.is_finite() && x >= 0.0;
        require(
            finite(t.lr) && t.lr > 0.0,
            "train.lr",
            t.lr,
            "must be above 0",
        )?;
        for (key, beta) in [("train.beta1", t.beta1), ("train.beta2", t.beta2)] {
            require(
                (0.0..1.0).contains(&beta),
                key,
                beta,
                "must be 0 <= beta < 1",
            )?;
        }
        require(
            finite(t.eps) && t.eps > 0.0,
            "train.eps",
            t.eps,
            "must be above 0",
        )?;
        require(
            finite(t.weight_decay),
            "train.weight_decay",
            t.weight_decay,
            "must be 0 or more",
        )?;
        require(
            finite(t.clip),
            "train.clip",
            t.clip,
            "must be 0 (off) or more",
        )?;
        let mib = t.bucket_mib;
        require(
            (1..=1024).contains(&mib),
            "train.bucket_mib",
            mib,
            "must be 1 to 1024",
        )?;
        let shares = [
            ("train.dropout", t.dropout),
            ("train.label_smoothing", t.label_smoothing),
            ("train.ema", t.ema),
        ];
        for (key, share) in shares {
            require(
                (0.0..1.0).contains(&share),
                key,
                share,
                "must be 0 <= x < 1",
            )?;
        }
        let every = match self.checkpoint.every {
            Every::Steps(steps) => steps,
            // Nothing but 0 is a multiple of what nobody knows yet.
            Every::Auto(_) => u64::MAX,
        };
        require(every > 0, "checkpoint.every", every, "must be at least 1")?;
        require(
            self.checkpoint.keep > 0,
            "checkpoint.keep",
            0,
            "must be at least 1",
        )?;
        let kept = self.checkpoint.keep_every;
        require(
            kept.is_multiple_of(every),
            "checkpoint.keep_every",
            kept,
            "must be a multiple of the number of steps in checkpoint.every, or 0",
        )
    }

    fn validate_tasks(&self) -> Result<(), SpecError> {
        let tasks = &self.tasks;
        let finite = |x: f64| x.is_finite() && x >= 0.0;
        let weights = tasks.weights();
        for (key, weight) in weights {
            require(finite(weight), key, weight, "a weight is 0 or more")?;
        }
        require(
            weights.iter().any(|(_, weight)| *weight > 0.0),
            "tasks.captioning",
            0,
            "at least one objective needs a weight above 0",
        )?;
        let gamma = tasks.gamma;
        require(finite(gamma), "tasks.gamma", gamma, "must be 0 or more")?;
        let floor = tasks.floor;
        require(
            (0.0..=1.0).contains(&floor),
            "tasks.floor",
            floor,
            "must be 0 to 1",
        )
    }

    fn validate_membership(&self) -> Result<(), SpecError> {
        let m = &self.membership;
        require(
            m.min_workers > 0,
            "membership.min_workers",
            0,
            "must be at least 1",
        )?;
        require(
            m.max_workers >= m.min_workers,
            "membership.max_workers",
            m.max_workers,
            "must be at least membership.min_workers",
        )?;
        require(
            m.max_workers <= self.data.lanes,
            "membership.max_workers",
            m.max_workers,
            "must be at most data.lanes: a rank needs a lane; raise data.lanes or start fewer",
        )
    }
}
