//! An S3 server on loopback that does what stores and networks do on a bad day, byte for byte: it
//! serves a folder read-only, and every answer may be spoiled.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What happens to one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is right.
    None,
    /// An error status with this S3 code instead.
    Status(u16, &'static str),
    /// Nothing ever comes.
    Silence,
    /// The connection ends in mid-body, in order.
    Truncation,
    /// The connection is reset in mid-body.
    Reset,
    /// Some bytes of the body are others.
    WrongBytes,
    /// The object is there in another version, of the same length.
    OtherVersion,
}

/// What may be asked of the server later.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Answers to reads of object bytes.
    pub(crate) reads: AtomicU64,
    /// Bytes of objects in them, as asked for.
    pub(crate) bytes: AtomicU64,
}

/// A running server.
pub(crate) struct Faulty {
    pub(crate) endpoint: String,
    pub(crate) counts: Arc<Counts>,
}

/// Decides the fault of the read with this number, 0-based.
type Policy = Arc<dyn Fn(u64) -> Fault + Send + Sync>;

#[derive(Clone)]
struct Server {
    objects: Arc<BTreeMap<String, Vec<u8>>>,
    counts: Arc<Counts>,
    policy: Policy,
    latency: Duration,
}

impl Faulty {
    /// Serves the files below `folder` as `s3://corpus/NAME`; reads of objects meet
    /// the faults of `policy`, and every answer comes after `latency`.
    pub(crate) async fn start(
        folder: &Path,
        latency: Duration,
        policy: impl Fn(u64) -> Fault + Send + Sync + 'static,
    ) -> Self {
        let mut objects = BTreeMap::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            objects.insert(name, std::fs::read(&path).unwrap());
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let counts = Arc::new(Counts::default());
        let server = Server {
            objects: Arc::new(objects),
            counts: Arc::clone(&counts),
            policy: Arc::new(policy),
            latency,
        };
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(server.clone().serve(socket));
            }
        });
        Self { endpoint, counts }
    }

    /// The environment of a process that reads from here.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.endpoint.clone()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_ACCESS_KEY_ID", "someone".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "something".to_owned()),
        ]
    }
}

impl Server {
    /// One connection: request after request until it is closed or spoiled.
    async fn serve(self, mut socket: TcpStream) {
        let mut pending = Vec::new();
        while let Some(head) = read_head(&mut socket, &mut pending).await {
            tokio::time::sleep(self.latency).await;
            if self.answer(&mut socket, &head).await.is_none() {
                return;
            }
        }
    }

    /// `None` ends the connection.
    async fn answer(&self, socket: &mut TcpStream, head: &str) -> Option<()> {
        let mut words = head.split_whitespace();
        let (method, target) = (words.next()?, words.next()?);
        if target.contains("list-type=2") {
            return send(socket, "200 OK", "", self.listing().as_bytes()).await;
        }
        let name = target
            .split('?')
            .next()?
            .strip_prefix("/corpus/")?
            .to_owned();
        let object = self.objects.get(&name);
        let Some(object) = object.filter(|_| method != "PUT") else {
            if method == "PUT" {
                let close = "Connection: close\r\n";
                send(
                    socket,
                    "403 Forbidden",
                    close,
                    error("AccessDenied").as_bytes(),
                )
                .await;
                return None;
            }
            return send(socket, "404 Not Found", "", error("NoSuchKey").as_bytes()).await;
        };
        let etag = format!("ETag: \"{}\"\r\n", blake3::hash(object).to_hex());
        let dated = format!("{etag}Last-Modified: Fri, 27 Nov 2026 12:00:00 GMT\r\n");
        if method == "HEAD" {
            let head = format!(
                "HTTP/1.1 200 OK\r\n{dated}Content-Length: {}\r\n\r\n",
                object.len()
            );
            return socket.write_all(head.as_bytes()).await.ok();
        }
        let (start, end) = range(head, object.len());
        let number = self.counts.reads.fetch_add(1, Ordering::Relaxed);
        self.counts
            .bytes
            .fetch_add((end - start) as u64, Ordering::Relaxed);
        let extra = format!(
            "{dated}Content-Range: bytes {start}-{}/{}\r\n",
            end - 1,
            object.len()
        );
        self.spoil(socket, &extra, &object[start..end], (self.policy)(number))
            .await
    }

    async fn spoil(
        &self,
        socket: &mut TcpStream,
        extra: &str,
        body: &[u8],
        fault: Fault,
    ) -> Option<()> {
        const PARTIAL: &str = "206 Partial Content";
        match fault {
            Fault::None => send(socket, PARTIAL, extra, body).await,
            Fault::Status(status, code) => {
                send(socket, &format!("{status} No"), "", error(code).as_bytes()).await
            }
            Fault::OtherVersion => {
                let other = extra.replace("ETag: \"", "ETag: \"0");
                send(socket, PARTIAL, &other, body).await
            }
            Fault::Silence => std::future::pending().await,
            Fault::WrongBytes => {
                let wrong: Vec<u8> = body.iter().map(|byte| byte ^ 0x55).collect();
                send(socket, PARTIAL, extra, &wrong).await
            }
            Fault::Truncation | Fault::Reset => {
                let length = body.len();
                let head = format!("HTTP/1.1 {PARTIAL}\r\n{extra}Content-Length: {length}\r\n\r\n");
                socket.write_all(head.as_bytes()).await.ok()?;
                socket.write_all(&body[..length / 2]).await.ok()?;
                if fault == Fault::Reset {
                    socket.set_zero_linger().ok()?;
                }
                None
            }
        }
    }

    fn listing(&self) -> String {
        let mut xml = "<ListBucketResult><IsTruncated>false</IsTruncated>".to_owned();
        for (name, object) in self.objects.iter() {
            let (size, etag) = (object.len(), blake3::hash(object).to_hex());
            write!(
                xml,
                "<Contents><Key>{name}</Key><LastModified>2026-11-27T12:00:00.000Z</LastModified>\
                 <ETag>\"{etag}\"</ETag><Size>{size}</Size></Contents>"
            )
            .unwrap();
        }
        xml + "</ListBucketResult>"
    }
}

fn error(code: &str) -> String {
    format!("<Error><Code>{code}</Code><Message>on purpose</Message></Error>")
}

/// The next request's head; a body is none of ours.
async fn read_head(socket: &mut TcpStream, pending: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = pending.windows(4).position(|four| four == b"\r\n\r\n") {
            let head: Vec<u8> = pending.drain(..end + 4).collect();
            return String::from_utf8(head).ok();
        }
        let mut more = [0; 4096];
        let read = socket.read(&mut more).await.ok().filter(|read| *read > 0)?;
        pending.extend(&more[..read]);
    }
}

async fn send(socket: &mut TcpStream, status: &str, extra: &str, body: &[u8]) -> Option<()> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\n{extra}Content-Length: {length}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.ok()?;
    socket.write_all(body).await.ok()
}

/// `Range: bytes=A-B` as A..B+1, within the object.
fn range(head: &str, length: usize) -> (usize, usize) {
    let line = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("range").then_some(value)
    });
    let bounds = line.and_then(|line| line.strip_prefix("bytes=")?.split_once('-'));
    let number = |text: &str| text.parse::<usize>().ok();
    let (start, last) = bounds.map_or((None, None), |(a, b)| (number(a), number(b)));
    (
        start.unwrap_or(0),
        last.map_or(length, |last| length.min(last + 1)),
    )
}
