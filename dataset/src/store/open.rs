//! From a URL and the environment to a client with short deadlines.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Component, Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig};
use url::Url;

use super::StoreError;

/// How long one request may take, its body included. Large objects move in pieces.
const REQUEST_TIMEOUT: &str = "10s";

/// How long a connection attempt may take.
const CONNECT_TIMEOUT: &str = "2s";

/// How long a request is repeated before its caller hears of it.
const RETRY_TIMEOUT: Duration = Duration::from_secs(15);

/// Where a cloud machine asks for the credentials of its own role.
const METADATA_SERVICE: ([u8; 4], u16) = ([169, 254, 169, 254], 80);

/// How long the metadata service may take to accept and to answer; it is on the machine's own link.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);

/// A client, where in it the URL points, and the URL without that path.
pub(super) struct Opened {
    pub(super) client: Arc<dyn ObjectStore>,
    pub(super) prefix: Path,
    pub(super) base: String,
}

/// Opens `url`: a path, or file://, s3://, gs://, az://.
pub(super) fn open(url: &str) -> Result<Opened, StoreError> {
    let wrong = |reason: String| StoreError::Url {
        url: url.to_owned(),
        reason,
    };
    let Some((scheme, _)) = url.split_once("://") else {
        return open_path(FilePath::new(url)).map_err(wrong);
    };
    let parsed = Url::parse(url).map_err(|error| wrong(error.to_string()))?;
    if scheme == "file" {
        let path = parsed
            .to_file_path()
            .map_err(|()| wrong("it is no path here".into()))?;
        return open_path(&path).map_err(wrong);
    }
    let host = parsed.host_str().filter(|host| !host.is_empty());
    let bucket = host.ok_or_else(|| wrong("it names no bucket".into()))?;
    let prefix = Path::from_url_path(parsed.path()).map_err(|error| wrong(error.to_string()))?;
    let client: Arc<dyn ObjectStore> = match scheme {
        "s3" => s3(url, bucket)?,
        "gs" => gs(url, bucket)?,
        "az" => az(url, bucket)?,
        _ => return Err(wrong(format!("there is no store for {scheme}://"))),
    };
    Ok(Opened {
        client,
        prefix,
        base: format!("{scheme}://{bucket}/"),
    })
}

fn open_path(path: &FilePath) -> Result<Opened, String> {
    let path = std::path::absolute(path).map_err(|error| error.to_string())?;
    let prefix = Path::from_absolute_path(lexical(&path)).map_err(|error| error.to_string())?;
    let client = Arc::new(LocalFileSystem::new().with_fsync(true));
    Ok(Opened {
        client,
        prefix,
        base: "file:///".to_owned(),
    })
}

/// Resolves `..` by name: the folder need not exist yet.
fn lexical(path: &FilePath) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    plain
}

fn s3(url: &str, bucket: &str) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
    let endpoint = endpoint.iter().find_map(|name| std::env::var(name).ok());
    if endpoint
        .as_ref()
        .is_some_and(|at| at.starts_with("http://"))
        && !is_on("AWS_ALLOW_HTTP")
    {
        let reason = "its endpoint is http://, which shows data to the network; \
                      set AWS_ALLOW_HTTP=true if that is meant";
        return Err(StoreError::Url {
            url: url.to_owned(),
            reason: reason.to_owned(),
        });
    }
    let ways = [
        "AWS_ACCESS_KEY_ID",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ];
    let next = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, \
                or AWS_SKIP_SIGNATURE=true for a public bucket";
    let set = is_on("AWS_SKIP_SIGNATURE") || any_set(&ways);
    if endpoint.is_some() && !set {
        // Somebody else's S3: the role of this machine says nothing there.
        return Err(StoreError::NoCredentials {
            url: url.to_owned(),
            next,
        });
    }
    require_credentials(url, set, next)?;
    let builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_retry(retry());
    let builder = limits().into_iter().fold(builder, |builder, (key, value)| {
        builder.with_config(AmazonS3ConfigKey::Client(key), value)
    });
    let client = builder
        .build()
        .map_err(|error| StoreError::of(url.to_owned(), error))?;
    Ok(Arc::new(client))
}

fn gs(url: &str, bucket: &str) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let ways = [
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GOOGLE_SERVICE_ACCOUNT",
        "GOOGLE_SERVICE_ACCOUNT_PATH",
        "GOOGLE_SERVICE_ACCOUNT_KEY",
        "SERVICE_ACCOUNT",
    ];
    let login = std::env::home_dir().is_some_and(|home| {
        home.join(".config/gcloud/application_default_credentials.json")
            .exists()
    });
    let next =
        "set GOOGLE_APPLICATION_CREDENTIALS, or GOOGLE_SKIP_SIGNATURE=true for a public bucket";
    require_credentials(
        url,
        login || is_on("GOOGLE_SKIP_SIGNATURE") || any_set(&ways),
        next,
    )?;
    let builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(bucket)
        .with_retry(retry());
    let builder = limits().into_iter().fold(builder, |builder, (key, value)| {
        builder.with_config(GoogleConfigKey::Client(key), value)
    });
    let client = builder
        .build()
        .map_err(|error| StoreError::of(url.to_owned(), error))?;
    Ok(Arc::new(client))
}

fn az(url: &str, container: &str) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let ways = [
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_ACCESS_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_STORAGE_SAS_KEY",
        "AZURE_STORAGE_TOKEN",
        "AZURE_STORAGE_CLIENT_SECRET",
        "AZURE_CLIENT_SECRET",
        "AZURE_FEDERATED_TOKEN_FILE",
        "AZURE_USE_AZURE_CLI",
        "AZURE_STORAGE_USE_EMULATOR",
        "IDENTITY_ENDPOINT",
    ];
    let next = "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, \
                or AZURE_SKIP_SIGNATURE=true for a public container";
    require_credentials(url, is_on("AZURE_SKIP_SIGNATURE") || any_set(&ways), next)?;
    let builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(container)
        .with_retry(retry());
    let builder = limits().into_iter().fold(builder, |builder, (key, value)| {
        builder.with_config(AzureConfigKey::Client(key), value)
    });
    let client = builder
        .build()
        .map_err(|error| StoreError::of(url.to_owned(), error))?;
    Ok(Arc::new(client))
}

/// Without credentials in the environment the client asks the cloud's metadata service, and where
/// there is none it would ask for long. Finding out first takes a second or two at most.
fn require_credentials(url: &str, set: bool, next: &'static str) -> Result<(), StoreError> {
    if set || metadata_service_answers().unwrap_or(false) {
        return Ok(());
    }
    Err(StoreError::NoCredentials {
        url: url.to_owned(),
        next,
    })
}

/// Whether there is a metadata service that may have credentials. A disabled one says 403; one that
/// wants a session token first says 401, and the client knows how to get it.
fn metadata_service_answers() -> std::io::Result<bool> {
    let service = SocketAddr::from(METADATA_SERVICE);
    let mut socket = TcpStream::connect_timeout(&service, METADATA_TIMEOUT)?;
    socket.set_read_timeout(Some(METADATA_TIMEOUT))?;
    socket.set_write_timeout(Some(METADATA_TIMEOUT))?;
    socket.write_all(b"GET / HTTP/1.0\r\nMetadata-Flavor: Google\r\nMetadata: true\r\n\r\n")?;
    let mut status_line = [0; 12];
    socket.read_exact(&mut status_line)?;
    let status = std::str::from_utf8(&status_line[9..]).ok();
    let status = status.and_then(|status| status.parse().ok());
    Ok(status.is_some_and(|status: u16| status != 403 && status < 500))
}

fn any_set(names: &[&str]) -> bool {
    names
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

fn is_on(name: &str) -> bool {
    std::env::var(name)
        .is_ok_and(|value| matches!(value.to_ascii_lowercase().as_str(), "true" | "1"))
}

fn limits() -> [(ClientConfigKey, &'static str); 2] {
    [
        (ClientConfigKey::Timeout, REQUEST_TIMEOUT),
        (ClientConfigKey::ConnectTimeout, CONNECT_TIMEOUT),
    ]
}

fn retry() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(3),
            base: 2.0,
        },
        max_retries: 8,
        retry_timeout: RETRY_TIMEOUT,
    }
}
