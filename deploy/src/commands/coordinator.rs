//! `ringmaster coordinator`: the control plane of one run.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use ringmaster_coordinator::{CorpusFacts, Options, Outcome, Timing};
use ringmaster_dataset::{Prepared, Store};
use ringmaster_proto::auth::RunToken;
use ringmaster_worker::init::Initial;
use tokio::net::TcpListener;

use crate::endpoint::{Endpoint, EndpointFile};
use crate::error::{CliError, Exit};
use crate::output;
use crate::run_file::RunFile;
use crate::signals::{self, Signals};
use crate::supervisor::RunEnd;

/// Arguments of `coordinator`.
#[derive(Args, Debug)]
pub(crate) struct CoordinatorArgs {
    #[command(flatten)]
    run: RunFile,
    /// File with the run's token: 64 hexadecimal digits
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// Address both ports are bound to
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,
    /// gRPC port; 0: any free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Admin HTTP port; 0: any free one
    #[arg(long, default_value_t = 0)]
    admin_port: u16,
    /// Write the addresses to this file while serving
    #[arg(long, value_name = "FILE")]
    endpoint_file: Option<PathBuf>,
    /// Append one line of JSON per step to this file
    #[arg(long, value_name = "FILE")]
    metrics_file: Option<PathBuf>,
    /// No worker of an earlier coordinator is left: wait for none
    #[arg(long)]
    alone: bool,
    /// End at once when standard input closes
    #[arg(long)]
    exit_with_parent: bool,
}

/// Binds, prepares the corpus, serves until the run ends. Prints two lines of JSON: where it
/// listens, and how the run ended.
pub(crate) async fn run(args: CoordinatorArgs) -> Result<Exit, CliError> {
    if args.exit_with_parent {
        signals::exit_with_parent();
    }
    let shutdown = Signals::listen()?.into_token();
    let spec = args.run.load()?;
    let token = RunToken::read(&args.token_file)?;
    let root = Store::open(&spec.run.store)?.child(&spec.run.name);
    let grpc = bind(args.bind, args.port, "--port").await?;
    let admin = bind(args.bind, args.admin_port, "--admin-port").await?;
    crate::history::history(&spec, &root).await?;
    let initial = crate::init::prepare(&spec, &root).await?;
    for line in initial.iter().flat_map(|initial| initial.account.lines()) {
        tracing::info!("init: {line}");
    }
    let prepared = ringmaster_dataset::prepare(&spec, &root, &LogStages).await?;
    let endpoint = Endpoint {
        run: spec.run.name.clone(),
        address: address(&grpc, "--port")?,
        admin: address(&admin, "--admin-port")?,
        pid: std::process::id(),
    };
    let options = Options {
        spec,
        root,
        corpus: facts(prepared, initial),
        token,
        metrics_file: args.metrics_file,
        admin_address: endpoint.admin.clone(),
        adopt: !args.alone,
        timing: Timing::default(),
    };
    let path = args.endpoint_file.as_deref();
    let serving = path
        .map(|path| EndpointFile::write(path, &endpoint))
        .transpose()?;
    output::json(&endpoint);
    tracing::info!(
        address = endpoint.address,
        admin = endpoint.admin,
        "serving"
    );
    let outcome = ringmaster_coordinator::serve(grpc, admin, options, shutdown).await;
    drop(serving);
    let (finished, step, digest) = match outcome? {
        Outcome::Finished { step, digest } => (true, step, digest),
        Outcome::Stopped { step, digest } => (false, step, digest),
    };
    output::json(&RunEnd {
        finished,
        step: step.0,
        digest,
        peak_memory_bytes: None,
        tax: None,
    });
    Ok(if finished { Exit::Done } else { Exit::Stopped })
}

async fn bind(ip: IpAddr, port: u16, flag: &str) -> Result<TcpListener, CliError> {
    let address = SocketAddr::new(ip, port);
    TcpListener::bind(address).await.map_err(|error| {
        let next = format!("choose another with {flag}, or 0 for any free one");
        CliError::invalid(format!("address {address}"), error, next)
    })
}

fn address(listener: &TcpListener, flag: &str) -> Result<String, CliError> {
    let address = listener.local_addr();
    let address = address.map_err(|error| CliError::invalid(flag, error, "choose another"))?;
    Ok(address.to_string())
}

/// What the coordinator has to know of corpus and initial parameters.
fn facts(prepared: Prepared, initial: Option<Initial>) -> CorpusFacts {
    CorpusFacts {
        corpus_hash: prepared.corpus_hash,
        validation_hash: prepared.validation_hash,
        tokenizer_hash: prepared.tokenizer_hash,
        init_hash: initial.map_or_else(String::new, |initial| initial.hash),
        total_steps: prepared.total_steps,
    }
}

/// Says once per stage that it is done.
struct LogStages;

impl ringmaster_dataset::Progress for LogStages {
    fn stage(&self, name: &str, done: u64, total: u64) {
        if done == total {
            tracing::info!(stage = name, total, "prepared");
        }
    }
}
