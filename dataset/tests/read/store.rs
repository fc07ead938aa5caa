//! One writer wins, nothing is half there, and every refusal is a sentence with the URL.

use std::process::Command;

use bytes::Bytes;
use futures::future::join_all;
use ringmaster_dataset::{Store, StoreError};
use ringmaster_proto::ErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn open(folder: &tempfile::TempDir) -> Store {
    Store::open(folder.path().join("not yet/there").to_str().unwrap()).unwrap()
}

#[tokio::test]
async fn exactly_one_of_many_simultaneous_creates_wins() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    for round in 0..20 {
        let key = format!("journal/{round}");
        let body = |writer: usize| Bytes::from(writer.to_string());
        let created = join_all((0..32).map(|writer| store.create(&key, body(writer)))).await;
        let winners: Vec<usize> = (0..32).filter(|writer| created[*writer].is_ok()).collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(store.get(&key).await.unwrap(), body(winners[0]));
        let lost = created.into_iter().filter_map(Result::err);
        assert!(lost.into_iter().all(|error| error.is_already_exists()));
    }
}

#[tokio::test]
async fn a_probe_passes_on_a_folder_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.probe().await.unwrap();
    assert!(store.list("").await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_put_is_read_back_whole_in_part_and_in_a_listing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    assert!(store.list("").await.unwrap().is_empty());
    assert!(store.get("a/one").await.unwrap_err().is_not_found());
    for key in ["b", "a/two", "a/one"] {
        store
            .put(key, Bytes::from(format!("this is {key}")))
            .await
            .unwrap();
    }
    assert_eq!(store.get_range("a/two", 8..13).await.unwrap(), "a/two");
    assert!(store.get_range("a/two", 8..14).await.is_err());
    let keys = |entries: Vec<ringmaster_dataset::Entry>| -> Vec<(String, u64)> {
        entries
            .into_iter()
            .map(|entry| (entry.key, entry.bytes))
            .collect()
    };
    let named = |key: &str| (key.to_owned(), 8 + key.len() as u64);
    let all = keys(store.list("").await.unwrap());
    assert_eq!(all, ["a/one", "a/two", "b"].map(named));
    assert_eq!(
        keys(store.list("a").await.unwrap()),
        ["a/one", "a/two"].map(named)
    );
    let below = keys(store.child("a").list("").await.unwrap());
    assert_eq!(below, [("one".to_owned(), 13), ("two".to_owned(), 13)]);
    assert_eq!(
        Store::open(&store.url()).unwrap().get("b").await.unwrap(),
        "this is b"
    );
    store.delete("b").await.unwrap();
    store.delete("b").await.unwrap();
    assert!(store.head("b").await.unwrap_err().is_not_found());
}

#[test]
fn a_relative_path_is_made_absolute() {
    let here = std::env::current_dir().unwrap();
    let store = Store::open("./some/../runs").unwrap();
    assert_eq!(store.local_path().unwrap(), here.join("runs"));
    assert_eq!(store.url(), format!("file://{}/runs", here.display()));
    assert_eq!(store.child("x/y").url(), format!("{}/x/y", store.url()));
}

#[test]
fn a_url_of_no_store_is_refused_with_what_works() {
    for url in ["ftp://host/x", "s3:///x", "s3://"] {
        let error = Store::open(url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let text = error.to_string();
        assert!(text.contains(url) && text.contains("s3://"), "{text}");
    }
}

/// What the children below run, because a store reads its environment; by itself it does nothing.
#[tokio::test]
async fn child_reads_one_object() {
    let Ok(url) = std::env::var("STORE_TEST_URL") else {
        return;
    };
    let answer = match Store::open(&url) {
        Ok(store) => store.get("key").await.map(drop),
        Err(error) => Err(error),
    };
    println!(
        "answer: {}",
        answer
            .as_ref()
            .map_or_else(StoreError::to_string, |()| "ok".into())
    );
}

/// What a process with this environment is told when it reads `url`/key.
async fn answer(url: &str, env: &[(&str, String)]) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "store::child_reads_one_object", "--nocapture"]);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        child.env_remove(name);
    }
    child
        .env("STORE_TEST_URL", url)
        .envs(env.iter().map(|(name, value)| (*name, value)));
    let output = tokio::task::spawn_blocking(move || child.output())
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text
        .lines()
        .find_map(|line| Some(line.split_once("answer: ")?.1));
    line.unwrap_or_else(|| panic!("no answer in {text}"))
        .to_owned()
}

fn keys(endpoint: &str) -> Vec<(&'static str, String)> {
    vec![
        ("AWS_ENDPOINT_URL", endpoint.to_owned()),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("AWS_ACCESS_KEY_ID", "someone".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "else".to_owned()),
    ]
}

/// A server that answers every request with `status` and an S3 error document.
async fn server(status: &'static str, code: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let body = format!("<Error><Code>{code}</Code><Message>as asked</Message></Error>");
            let length = body.len();
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n");
            let answer = format!("{head}connection: close\r\n\r\n{body}");
            let mut request = [0; 4096];
            let _ = socket.read(&mut request).await;
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    address
}

#[tokio::test]
async fn refused_credentials_are_one_sentence() {
    for (status, code) in [
        ("403 Forbidden", "SignatureDoesNotMatch"),
        ("401 No", "AccessDenied"),
    ] {
        let text = answer("s3://bucket/data", &keys(&server(status, code).await)).await;
        assert!(text.starts_with("s3://bucket/data/key: the store refused the credentials"));
        assert!(
            text.contains(code) && text.contains("check the access key"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_missing_bucket_is_told_from_a_missing_object() {
    let bucket = server("404 Not Found", "NoSuchBucket").await;
    let text = answer("s3://bucket/data", &keys(&bucket)).await;
    assert!(
        text.starts_with("s3://bucket/data/key: there is no such bucket"),
        "{text}"
    );
    let object = server("404 Not Found", "NoSuchKey").await;
    let text = answer("s3://bucket/data", &keys(&object)).await;
    assert!(
        text.starts_with("s3://bucket/data/key does not exist"),
        "{text}"
    );
}

#[tokio::test]
async fn no_credentials_are_one_sentence_at_once() {
    let mut env = keys("http://127.0.0.1:1");
    env.truncate(2);
    let text = answer("s3://bucket/data", &env).await;
    assert!(text.starts_with("s3://bucket/data: no credentials are set; set AWS_ACCESS_KEY_ID"));
}

#[tokio::test]
async fn an_unencrypted_endpoint_must_be_meant() {
    let mut env = keys("http://127.0.0.1:1");
    env.remove(1);
    let text = answer("s3://bucket/data", &env).await;
    assert!(text.contains("set AWS_ALLOW_HTTP=true"), "{text}");
}

#[tokio::test]
async fn an_endpoint_that_nobody_serves_is_named() {
    // Bound and dropped: nobody listens there now.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let text = answer("s3://bucket/data", &keys(&endpoint)).await;
    assert!(
        text.starts_with("s3://bucket/data/key: the store cannot be reached"),
        "{text}"
    );
    assert!(text.contains("check the endpoint"), "{text}");
}
