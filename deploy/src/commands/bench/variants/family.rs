//! The variants: each the same run but for the keys that make it what it is.

use clap::builder::PossibleValuesParser;

/// One way to fuse image and text.
#[derive(Debug)]
pub(super) struct Variant {
    /// Name in tables and of its runs.
    pub(super) name: &'static str,
    /// What differs from the paper's.
    pub(super) sets: &'static [&'static str],
}

/// All of them, at the same width and number of fusion layers; the paper's is `jar`.
pub(super) const VARIANTS: [Variant; 9] = [
    variant("concat", &["model.fusion=concat"]),
    variant("perceiver", &["model.fusion=perceiver"]),
    variant("cotok", &["model.fusion=cotok"]),
    variant("xattn", &["model.fusion=xattn"]),
    variant("jar-spatial", &["model.resample=spatial"]),
    variant("jar", &[]),
    variant("jar-no-gating", &["model.gating=false"]),
    variant("jar-combine-none", &["model.combine=none"]),
    variant("jar-combine-residual", &["model.combine=residual"]),
];

const fn variant(name: &'static str, sets: &'static [&'static str]) -> Variant {
    Variant { name, sets }
}

/// The names, as a command line takes them.
pub(super) fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(VARIANTS.iter().map(|variant| variant.name))
}
