//! The three token ids every tokenizer of a run shares; a tokenizer's own ids follow, shifted by
//! [`RESERVED`].

/// Fills unused positions; never a target.
pub const PAD: u32 = 0;

/// First input of the decoder.
pub const BEGIN: u32 = 1;

/// Last target of the decoder.
pub const END: u32 = 2;

/// How many ids come before a tokenizer's own.
pub const RESERVED: u32 = 3;
