//! Properties of everything between a store and a batch.

#![cfg(feature = "read")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bad_rows;
mod checksums;
mod corpora;
mod csv;
mod decode;
mod economy;
mod errors;
mod faults;
mod faulty;
mod footers;
mod foreign;
mod import;
mod loader;
mod manifest;
mod pixels;
mod prepare;
mod questions;
mod store;
mod survey;
mod texts;
mod tokenizer;
mod views;
