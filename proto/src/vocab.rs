//! What every tokenizer of a run shares: the token ids before its own, which are shifted by
//! [`RESERVED`], and the texts that tell the decoder what is asked of it.

/// Fills unused positions; never a target.
pub const PAD: u32 = 0;

/// First input of the decoder.
pub const BEGIN: u32 = 1;

/// Last target of the decoder.
pub const END: u32 = 2;

/// The first of the sentinels: marks in a text where a span was taken out, and in the target where
/// that span begins.
pub const SENTINEL: u32 = 3;

/// How many spans can be taken out of one text. Sixteen spans are 320 tokens of text, and leave room
/// for T5's tokenizer of 32,100 ids in its vocabulary of 32,128.
pub const SENTINELS: u32 = 16;

/// How many ids come before a tokenizer's own.
pub const RESERVED: u32 = SENTINEL + SENTINELS;

/// Encoder text of the captioning objective. A prompt of several words, not a single marker: eq. 2
/// makes the text latents of its tokens, and one token would make all latents, and with them the
/// whole memory of the decoder, equal.
pub const CAPTION_PROMPT: &str = "what is in the picture, what does it look like and where is it";

/// Comes before the first words of a caption that is to be completed. Short, as the next two are: a
/// caption follows, and both have to fit the encoder's text.
pub const COMPLETION_PROMPT: &str = "finish this caption:";

/// Comes before a caption with spans taken out.
pub const SPANS_PROMPT: &str = "fill the gaps:";

/// Comes before a caption that may be another picture's.
pub const MATCHING_PROMPT: &str = "true or false:";

/// Encoder text of the object listing objective; of several words for the same reason as
/// [`CAPTION_PROMPT`].
pub const LISTING_PROMPT: &str = "list the name of every object that can be seen in the picture";

/// The question whether an object is in the picture.
pub fn presence_question(object: &str) -> String {
    format!("is there a {object}?")
}
