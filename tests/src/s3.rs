//! A real S3 endpoint on loopback: s3s speaks the protocol and checks signatures, s3s-fs keeps the
//! objects in a folder, and one lock around both makes conditional writes atomic.
//!
//! Without the lock s3s-fs looks whether an object exists and writes it in two steps, so several of
//! many concurrent `If-None-Match: *` writers win.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::sync::Mutex;

use crate::gate::{Gates, Held, Moment};

/// The one access key that is known.
pub const ACCESS_KEY: &str = "ringmaster-tests";
/// Its secret.
pub const SECRET_KEY: &str = "not-a-secret";
/// The one bucket there is.
pub const BUCKET: &str = "runs";

/// Largest object accepted in one request, bytes.
const OBJECT_BYTES_MAX: usize = 256 << 20;

/// A running server; dropping it stops it and removes the objects.
pub struct S3Server {
    address: SocketAddr,
    faults: Arc<Faults>,
    runtime: Option<tokio::runtime::Runtime>,
    /// Removed when the server is dropped.
    _folder: tempfile::TempDir,
}

/// What the server does wrong on purpose.
#[derive(Default)]
struct Faults {
    gates: Gates,
    /// Every that many writes the answer is 500 though the write was done; 0: never.
    ambiguous_every: AtomicU64,
    writes: AtomicU64,
    /// What every request takes.
    time: std::sync::Mutex<Duration>,
}

struct Shared {
    service: S3Service,
    turn: Mutex<()>,
    faults: Arc<Faults>,
}

impl S3Server {
    /// Serves an empty bucket on a free port of 127.0.0.1.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join(BUCKET)).expect("the bucket's folder");
        let objects = s3s_fs::FileSystem::new(folder.path()).expect("a file system store");
        let mut builder = S3ServiceBuilder::new(objects);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let faults = Arc::new(Faults::default());
        let service = builder.build();
        let shared = Arc::new(Shared {
            service,
            turn: Mutex::new(()),
            faults: faults.clone(),
        });
        let app = axum::Router::new().fallback(answer).with_state(shared);

        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .expect("a free port");
        let address = listener.local_addr().expect("a bound port");
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self {
            address,
            faults,
            runtime: Some(runtime),
            _folder: folder,
        }
    }

    /// `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `s3://bucket/prefix`.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}")
    }

    /// What a process needs in its environment to use this server.
    pub fn environment(&self) -> Vec<(String, String)> {
        let pairs = [
            ("AWS_ENDPOINT", self.endpoint()),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into()),
        ];
        pairs.map(|(key, value)| (key.to_owned(), value)).into()
    }

    /// A client of this server that does not retry.
    pub fn client(&self) -> AmazonS3 {
        AmazonS3Builder::new()
            .with_endpoint(self.endpoint())
            .with_allow_http(true)
            .with_region("us-east-1")
            .with_access_key_id(ACCESS_KEY)
            .with_secret_access_key(SECRET_KEY)
            .with_bucket_name(BUCKET)
            .with_retry(object_store::RetryConfig {
                max_retries: 0,
                ..Default::default()
            })
            .build()
            .expect("a client of the local server")
    }

    /// From now on every `every`th write is done and then answered with 500.
    pub fn answer_ambiguously(&self, every: u64) {
        self.faults.ambiguous_every.store(every, Ordering::Relaxed);
    }

    /// From now on every request takes so much longer.
    pub fn take_time(&self, time: Duration) {
        *self
            .faults
            .time
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = time;
    }

    /// Keeps the next write whose key and content are those meant waiting, at `moment`, until it
    /// is let go. It is done even if its client is gone by then.
    pub fn hold(
        &self,
        moment: Moment,
        meant: impl Fn(&str, &[u8]) -> bool + Send + 'static,
    ) -> Held {
        self.faults.gates.hold(moment, meant)
    }

    /// Uploads `bytes` over HTTP.
    pub fn put(&self, key: &str, bytes: Vec<u8>) {
        let client = self.client();
        self.block_on(client.put(&key.into(), bytes.into()))
            .expect("the upload of an object");
    }

    /// Runs `future` on the server's runtime.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime
            .as_ref()
            .expect("present until dropped")
            .block_on(future)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // Requests in flight are dropped: nothing waits for a client that was killed.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// One request at a time, whole body first: a client that stalls holds nobody up, and what one that
/// dies has asked for is done all the same.
async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, OBJECT_BYTES_MAX).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let done = tokio::spawn(async move { serve(&shared, head, body).await });
    done.await
        .unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

async fn serve(shared: &Shared, head: Parts, body: Bytes) -> Response {
    let time = *shared
        .faults
        .time
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    tokio::time::sleep(time).await;
    let writes = head.method == Method::PUT;
    let gate = writes.then(|| shared.faults.gates.meet(head.uri.path(), &body));
    let gate = gate.flatten();
    if let Some(gate) = &gate {
        gate.pass(Moment::Before).await;
    }
    let request = Request::from_parts(head, body.into());
    let answer = {
        let _turn = shared.turn.lock().await;
        shared.service.call(request).await
    };
    if let Some(gate) = &gate {
        gate.pass(Moment::After).await;
    }
    let Ok(response) = answer else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    if writes && response.status().is_success() && shared.faults.hides_this_write() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    response.map(Body::new)
}

impl Faults {
    fn hides_this_write(&self) -> bool {
        let every = self.ambiguous_every.load(Ordering::Relaxed);
        every > 0 && (self.writes.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(every)
    }
}
