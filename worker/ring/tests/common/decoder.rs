//! Any bytes as frames: what the decoder must hold to, for tests and for a fuzzer.

use ringmaster_ring::frame::{FrameError, HEADER_BYTES, Header, PAYLOAD_MAX, heartbeat};

/// Opens bytes as a receiver of `generation` does, frame after frame, until one is refused or too
/// little is left; then once more with checksums that fit, which no fuzzer guesses. Panics where the
/// decoder breaks its word.
pub(crate) fn check(bytes: &[u8], generation: u64) {
    let mut rest = bytes;
    while let Some((head, body)) = rest.split_first_chunk::<HEADER_BYTES>() {
        let Some(length) = open(head, body, generation) else {
            break;
        };
        rest = &body[length..];
    }
    if let Some((head, body)) = bytes.split_first_chunk::<HEADER_BYTES>() {
        reseal(head, body, generation);
    }
}

/// The payload's length, if the frame is accepted.
fn open(head: &[u8; HEADER_BYTES], body: &[u8], generation: u64) -> Option<usize> {
    let header = judge(head, generation).ok()?;
    let payload = body.get(..header.length as usize)?;
    header.verify(head, payload).ok()?;
    // One meaning has one encoding, so nothing hides in a frame that is accepted.
    assert_eq!(&Header::encode(generation, header.stamp, payload), head);
    Some(payload.len())
}

/// Decodes a header and checks that what it promises is within what a receiver holds.
fn judge(head: &[u8; HEADER_BYTES], generation: u64) -> Result<Header, FrameError> {
    let header = Header::decode(head, generation);
    match &header {
        Ok(header) => {
            assert_eq!(header.generation, generation);
            assert!(header.length as usize <= PAYLOAD_MAX);
            assert!(header.stamp.kind.is_data() || header.length == 0);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    header
}

/// A header that is refused for its checksum alone is accepted with the right one.
fn reseal(head: &[u8; HEADER_BYTES], body: &[u8], generation: u64) {
    let mut sealed = *head;
    // Most of what a fuzzer makes dies at the magic; the fields behind it matter more.
    sealed[..5].copy_from_slice(&heartbeat(generation)[..5]);
    sealed[8..16].copy_from_slice(&generation.to_le_bytes());
    let Ok(header) = judge(&sealed, generation) else {
        return;
    };
    let mut payload = body[..body.len().min(header.length as usize)].to_vec();
    payload.resize(header.length as usize, 0);
    let sealed = Header::encode(generation, header.stamp, &payload);
    assert_eq!(open(&sealed, &payload, generation), Some(payload.len()));
}
