//! The S3 server of the tests keeps the promises that the journal rests on.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use futures::future::join_all;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use ringmaster_tests::s3::S3Server;

fn create() -> PutOptions {
    PutOptions {
        mode: PutMode::Create,
        ..Default::default()
    }
}

#[test]
fn of_concurrent_creates_exactly_one_wins() {
    let server = S3Server::start();
    let client = server.client();
    for round in 0..20 {
        let key = format!("records/{round}").into();
        let attempts = (0..32).map(|n| client.put_opts(&key, vec![n; 64].into(), create()));
        let results = server.block_on(join_all(attempts));
        let winners: Vec<usize> = (0..32).filter(|&n| results[n].is_ok()).collect();
        let refused = results
            .iter()
            .filter(|r| matches!(r, Err(Error::AlreadyExists { .. })));
        assert_eq!(
            (winners.len(), refused.count()),
            (1, 31),
            "round {round}: {results:?}"
        );
        let kept = server
            .block_on(async { client.get(&key).await?.bytes().await })
            .unwrap();
        assert_eq!(
            kept[..],
            [u8::try_from(winners[0]).unwrap(); 64],
            "the winner's bytes are kept"
        );
    }
}

#[test]
fn an_ambiguous_write_is_done_and_answered_as_failed() {
    let server = S3Server::start();
    server.answer_ambiguously(2);
    let client = server.client();
    let put = |key: &'static str| server.block_on(client.put(&key.into(), "x".into()));
    assert!(put("first").is_ok());
    assert!(put("second").is_err());
    assert!(server.block_on(client.head(&"second".into())).is_ok());
}

#[test]
fn a_wrong_secret_is_refused() {
    let server = S3Server::start();
    let stranger = object_store::aws::AmazonS3Builder::new()
        .with_endpoint(server.endpoint())
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_access_key_id(ringmaster_tests::s3::ACCESS_KEY)
        .with_secret_access_key("wrong")
        .with_bucket_name(ringmaster_tests::s3::BUCKET)
        .build()
        .unwrap();
    let error = server
        .block_on(stranger.put(&"key".into(), "x".into()))
        .unwrap_err();
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
}
