//! What every tokenizer of a run shares: three token ids before its own, which are shifted by
//! [`RESERVED`], and the prompt that asks for a caption.

/// Fills unused positions; never a target.
pub const PAD: u32 = 0;

/// First input of the decoder.
pub const BEGIN: u32 = 1;

/// Last target of the decoder.
pub const END: u32 = 2;

/// How many ids come before a tokenizer's own.
pub const RESERVED: u32 = 3;

/// Encoder text of the captioning objective. A prompt of several words, not a single marker: eq. 2
/// makes the text latents of its tokens, and one token would make all latents, and with them the
/// whole memory of the decoder, equal.
pub const CAPTION_PROMPT: &str = "what is in the picture, what does it look like and where is it";
