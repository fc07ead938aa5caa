//! What the journal promises: one writer, numbered records, nothing torn.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use ringmaster_proto::checkpoint::{CheckpointManifest, FORMAT_VERSION, Part};
use ringmaster_proto::{Generation, Step, Term};

use super::*;
use crate::record::{CorpusFacts, GenerationRecord, Held, Origin};

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    (folder, store)
}

fn term(term: u64) -> Record {
    Record::TermStarted { term: Term(term) }
}

#[tokio::test]
async fn of_two_writers_exactly_one_wins_and_the_other_is_fenced() {
    let (_folder, root) = store();
    let (_, mut one) = Journal::open(&root).await.unwrap();
    let (_, mut two) = Journal::open(&root).await.unwrap();
    let record = term(1);
    let results = tokio::join!(one.append(&record), two.append(&record));
    let results: [Result<(), JournalError>; 2] = results.into();
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    let fenced = |r: &&Result<(), JournalError>| matches!(r, Err(JournalError::Fenced { .. }));
    assert_eq!(results.iter().filter(fenced).count(), 1);
    assert_eq!(read(&root).await.unwrap(), [term(1)]);
}

#[tokio::test]
async fn a_stale_writer_fails_its_next_write() {
    let (_folder, root) = store();
    let (_, mut old) = Journal::open(&root).await.unwrap();
    old.append(&term(1)).await.unwrap();
    let (records, mut new) = Journal::open(&root).await.unwrap();
    assert_eq!(records, [term(1)]);
    new.append(&term(2)).await.unwrap();
    assert!(matches!(
        old.append(&term(3)).await,
        Err(JournalError::Fenced { .. })
    ));
    new.append(&term(3)).await.unwrap();
}

#[tokio::test]
async fn a_create_that_got_through_unnoticed_is_a_success() {
    let (_folder, root) = store();
    let (_, mut journal) = Journal::open(&root).await.unwrap();
    let written = Envelope::seal(1, journal.writer, &term(1));
    root.create(&keys::journal_record(1), written.into())
        .await
        .unwrap();
    journal.append(&term(1)).await.unwrap();
    journal.append(&term(2)).await.unwrap();
    assert_eq!(read(&root).await.unwrap(), [term(1), term(2)]);
}

#[tokio::test]
async fn a_torn_altered_or_missing_record_is_a_clear_error() {
    let (_folder, root) = store();
    let (_, mut journal) = Journal::open(&root).await.unwrap();
    for number in 1..=3 {
        journal.append(&term(number)).await.unwrap();
    }
    let key = keys::journal_record(2);
    let whole = root.get(&key).await.unwrap();
    let altered = String::from_utf8(whole.to_vec())
        .unwrap()
        .replace("\"term\":2", "\"term\":9");
    let moved = root.get(&keys::journal_record(1)).await.unwrap();
    for broken in [whole.slice(..whole.len() / 2), altered.into(), moved] {
        root.put(&key, broken).await.unwrap();
        let error = Journal::open(&root).await.err().unwrap();
        assert!(error.to_string().contains("000000000002.json"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Data);
    }
    root.delete(&key).await.unwrap();
    assert!(matches!(
        read(&root).await,
        Err(JournalError::Corrupt { .. })
    ));
}

#[tokio::test]
async fn a_run_is_what_its_records_add_up_to() {
    let corpus = |total_steps| CorpusFacts {
        corpus_hash: "c".into(),
        validation_hash: String::new(),
        tokenizer_hash: "t".into(),
        init_hash: String::new(),
        total_steps,
    };
    let state = |step| Held {
        step: Step(step),
        digest: "d".into(),
    };
    let created = Record::RunCreated {
        spec_json: "{}".into(),
        spec_hash: "h".into(),
        corpus: corpus(10),
    };
    let generation = |generation, step| {
        Record::Generation(GenerationRecord {
            generation: Generation(generation),
            members: Vec::new(),
            resume: state(step),
            origin: Origin::Memory,
            fingerprint: "f".into(),
        })
    };
    let longer = Record::SpecChanged {
        spec_json: "{1}".into(),
        spec_hash: "i".into(),
        total_steps: 20,
    };
    let mut records = vec![
        term(1),
        created,
        generation(1, 0),
        Record::Finished(state(10)),
    ];
    let run = replay(&records).1.unwrap();
    assert_eq!((run.finished, run.corpus), (Some(state(10)), corpus(10)));
    records.extend([
        term(2),
        longer,
        generation(2, 10),
        Record::Stopped(state(15)),
    ]);
    let run = replay(&records).1.unwrap();
    assert_eq!((run.finished, run.stopped), (None, Some(state(15))));
    assert_eq!(
        (run.corpus, run.term, run.last.unwrap().generation),
        (corpus(20), Term(2), Generation(2))
    );
    assert_eq!(
        run.lineage,
        [(Generation(1), Step(0)), (Generation(2), Step(10))]
    );
}

#[tokio::test]
async fn a_checkpoint_without_all_its_parts_is_none() {
    let (_folder, root) = store();
    for step in [10, 20, 30] {
        let folder = keys::checkpoint(Generation(1), Step(step), "d");
        let key = keys::checkpoint_part(&folder, 0, 1);
        root.put(&key, vec![0; 8].into()).await.unwrap();
        let manifest = CheckpointManifest {
            format_version: FORMAT_VERSION,
            run: "t".into(),
            identity: "i".into(),
            generation: Generation(1),
            step: Step(step),
            digest: "d".into(),
            parts: vec![Part {
                key,
                bytes: if step == 20 { 9 } else { 8 },
                blake3: "b".into(),
            }],
        };
        if step != 30 {
            let manifest = serde_json::to_vec(&manifest).unwrap();
            root.put(&keys::checkpoint_manifest(&folder), manifest.into())
                .await
                .unwrap();
        }
    }
    let stored = stored_checkpoints(&root).await.unwrap();
    assert_eq!(
        stored.complete.iter().map(|m| m.step.0).collect::<Vec<_>>(),
        [10]
    );
    assert_eq!((stored.broken.len(), stored.orphans.len()), (1, 1));
    assert!(stored.broken[0].reason.contains("has 8 bytes, not 9"));
}
