//! From Parquet in object storage to batches of decoded examples.
//!
//! What rows come in which order is a pure function ([`plan`], [`assign`]); the rest fetches and
//! decodes what the plan names. This crate never knows about ranks' addresses, and never moves data
//! that it has read once: Parquet stays where it is.
//!
//! Codecs and tokenizers are behind the feature `read`; without it the crate is what a process
//! needs that decides but does not read rows.

pub mod assign;
#[cfg(feature = "read")]
mod augment;
#[cfg(feature = "read")]
mod byte_texts;
mod columns;
#[cfg(feature = "read")]
mod corpus;
#[cfg(feature = "read")]
pub mod decode;
#[cfg(feature = "read")]
mod disk_cache;
mod error;
#[cfg(feature = "read")]
mod example;
#[cfg(feature = "read")]
mod fetch;
mod footer;
mod footer_cache;
#[cfg(feature = "read")]
mod held;
#[cfg(feature = "read")]
mod hollow;
#[cfg(feature = "read")]
mod images;
#[cfg(feature = "read")]
pub mod import;
pub mod ledger;
#[cfg(feature = "read")]
mod loader;
#[cfg(feature = "read")]
pub mod loader_bench;
pub mod manifest;
mod mixing;
mod names;
#[cfg(feature = "read")]
mod pages;
mod permutation;
#[cfg(feature = "read")]
pub mod photos;
pub mod plan;
#[cfg(feature = "read")]
mod prepare;
#[cfg(feature = "read")]
mod producer;
#[cfg(feature = "read")]
mod questions;
#[cfg(feature = "read")]
mod ranges;
#[cfg(feature = "read")]
mod reader;
#[cfg(feature = "read")]
mod refusal;
mod retry;
#[cfg(feature = "read")]
mod room;
#[cfg(feature = "read")]
mod rows;
#[cfg(feature = "read")]
pub mod scenes;
#[cfg(feature = "read")]
pub mod scenes_corpus;
#[cfg(feature = "read")]
mod shard;
pub mod store;
#[cfg(feature = "read")]
mod survey;
#[cfg(feature = "read")]
mod thumbnail;
#[cfg(feature = "read")]
mod tokenizer;
#[cfg(feature = "read")]
mod window;

pub use assign::{efficiency, lanes_of_rank, standby_lanes};
pub use error::DatasetError;
pub use manifest::{CorpusManifest, Shard};
pub use mixing::{Compared, Mixing};
pub use names::{RowName, RowNames};
pub use plan::{Plan, PlanError, PlanSpec, RowRef};
pub use store::{Entry, Store, StoreError, read_url};

#[cfg(feature = "read")]
pub use {
    augment::{Frame, View},
    corpus::{Corpus, read_rows, read_texts},
    decode::normalise,
    example::Example,
    held::rows_bytes,
    hollow::hollow_shard,
    images::{Form, Images},
    loader::{LaneBatch, Loader, LoaderOptions, StepBatch},
    prepare::{Prepared, Progress, prepare},
    questions::{Asked, Question, QuestionBatch, QuestionOptions, Questions},
    refusal::Refusal,
    rows::Texts,
    survey::{SeenRow, Which, survey},
    thumbnail::thumbnail,
    tokenizer::Tokenizer,
};
