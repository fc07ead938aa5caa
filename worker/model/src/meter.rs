//! Counts multiply-accumulate operations by part of the model.

use std::cell::{Cell, RefCell};

/// The parts that costs are told by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PartName {
    Image,
    Text,
    Embedding,
    Projection,
    Resampling,
    Fusion,
    Transformer,
    Decoder,
}

impl PartName {
    pub(crate) const ALL: [Self; 8] = [
        Self::Image,
        Self::Text,
        Self::Embedding,
        Self::Projection,
        Self::Resampling,
        Self::Fusion,
        Self::Transformer,
        Self::Decoder,
    ];

    /// As it is printed.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Text => "text",
            Self::Embedding => "embedding",
            Self::Projection => "projection",
            Self::Resampling => "resampling",
            Self::Fusion => "fusion",
            Self::Transformer => "transformer",
            Self::Decoder => "decoder",
        }
    }

    /// The part that a parameter belongs to, by its path.
    pub(crate) fn of_parameter(path: &str) -> Self {
        let within_fusion = path.strip_prefix("fusion.");
        match path.split('.').next().unwrap_or_default() {
            "embedding" => Self::Embedding,
            "image_encoder" => Self::Image,
            "text_encoder" => Self::Text,
            "projection" => Self::Projection,
            "decoder" => Self::Decoder,
            _ => match within_fusion {
                Some(path) if path.contains("layers.") => Self::Transformer,
                Some(path) if path.contains("resampler.") => Self::Resampling,
                _ => Self::Fusion,
            },
        }
    }
}

/// The counts of one pass.
#[derive(Debug)]
pub(crate) struct Meter {
    current: Cell<PartName>,
    macs: RefCell<[u64; PartName::ALL.len()]>,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            current: Cell::new(PartName::Fusion),
            macs: RefCell::default(),
        }
    }
}

impl Meter {
    /// Adds a product whose number of multiply-accumulates is the product of `sides`.
    pub(crate) fn add<const N: usize>(&self, sides: [usize; N]) {
        let macs: u64 = sides.iter().map(|side| *side as u64).product();
        self.macs.borrow_mut()[self.current.get() as usize] += macs;
    }

    /// Counts what `work` does as part `name`.
    pub(crate) fn part<T>(&self, name: PartName, work: impl FnOnce() -> T) -> T {
        let outer = self.current.replace(name);
        let result = work();
        self.current.set(outer);
        result
    }

    /// What was counted for a part.
    pub(crate) fn macs(&self, name: PartName) -> u64 {
        self.macs.borrow()[name as usize]
    }
}
