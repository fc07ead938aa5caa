//! `ringmaster checkpoint export`: one checkpoint as a folder for other programs.

use clap::Args;
use ringmaster_dataset::Store;
use ringmaster_worker::export::{self, Weights};

use super::ShowArgs;
use crate::error::{CliError, Exit};
use crate::output::{self, Output};

/// Which checkpoint, and where to.
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    which: ShowArgs,
    /// Folder or URL that is written: model.safetensors, config.json and tokenizer.json
    #[arg(long, value_name = "FOLDER")]
    out: String,
    /// Write the moving average of the weights, which evaluation uses where the run keeps one
    #[arg(long)]
    ema: bool,
}

/// Writes the folder and says what is in it.
pub(super) async fn run(args: ExportArgs) -> Result<Exit, CliError> {
    let (root, manifest) = args.which.chosen().await?;
    let spec = super::spec(&root).await?;
    let out = Store::open(&args.out)?;
    let weights = if args.ema {
        Weights::Ema
    } else {
        Weights::Parameters
    };
    let config = export::export(&spec, &root, &manifest, weights, &out).await?;
    if args.which.of.output == Output::Json {
        output::json(&config);
        return Ok(Exit::Done);
    }
    let lines = [
        ("run", config.run),
        ("step", config.step.to_string()),
        ("digest", config.digest),
        ("parameters", output::count(config.parameters as u64)),
        ("model", config.model_blake3),
        ("folder", out.url()),
    ];
    for (name, value) in lines {
        output::line(&format!("{name:<11} {value}"));
    }
    Ok(Exit::Done)
}
