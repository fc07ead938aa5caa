//! `ringmaster flops`: what a model costs, counted by running its own code on shapes.

mod figure;
mod paper;

use std::path::PathBuf;

use clap::Args;
use ringmaster_model::{Cost, Part, cost};
use ringmaster_proto::spec::{ModelSpec, Preset};
use serde::Serialize;

use crate::error::{CliError, Exit};
use crate::output::{self, Output, count};
use crate::run_file::RunFile;

/// Decoder tokens unless told otherwise: the answers that the paper's costs are about.
const TARGET_TOKENS: usize = 8;

/// Arguments of `flops`.
#[derive(Args, Debug)]
pub(crate) struct FlopsArgs {
    #[command(flatten)]
    run: RunFile,
    /// Model sizes to start from: tiny, small, base or large; sets model.preset
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Encoder tokens [default: model.text_len]
    #[arg(long, value_name = "N")]
    text_tokens: Option<usize>,
    /// Decoder tokens [default: 8, or model.target_len if that is less]
    #[arg(long, value_name = "N")]
    target_tokens: Option<usize>,
    /// Count every model of the paper's tables and of its figure 2, beside the published numbers
    #[arg(long, conflicts_with_all = ["path", "overrides", "preset", "text_tokens", "target_tokens"])]
    paper: bool,
    /// Draw figure 2 to this file
    #[arg(long, value_name = "FILE", requires = "paper")]
    svg: Option<PathBuf>,
    /// Form of the output
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// One model and its cost; the field names are a contract. A multiply-accumulate (MAC) is one
/// operation to some authors and two to others, so both are told.
#[derive(Debug, Serialize)]
struct Counted {
    preset: Preset,
    text_tokens: usize,
    target_tokens: usize,
    params: u64,
    macs: u64,
    gflops_mac1: f64,
    gflops_mac2: f64,
    components: Vec<Component>,
}

/// One part of it.
#[derive(Clone, Debug, Serialize)]
struct Component {
    name: &'static str,
    params: u64,
    /// Of them norms, biases, positions, gates and combination weights.
    small_params: u64,
    macs: u64,
    gflops_mac1: f64,
    gflops_mac2: f64,
}

/// Counts one model, or all of the paper's.
pub(crate) fn run(args: FlopsArgs) -> Result<Exit, CliError> {
    if args.paper {
        return paper::run(args.svg.as_deref(), args.output);
    }
    let model = args.model()?;
    let text = within("--text-tokens", args.text_tokens, model.text_len)?;
    let target = within("--target-tokens", args.target_tokens, model.target_len)?;
    let text = text.unwrap_or(model.text_len);
    let target = target.unwrap_or(TARGET_TOKENS.min(model.target_len));
    let counted = Counted::of(&model, text, target);
    match args.output {
        Output::Json => output::json(&counted),
        Output::Table => counted.print(),
    }
    Ok(Exit::Done)
}

impl FlopsArgs {
    fn model(&self) -> Result<ModelSpec, CliError> {
        let mut run = self.run.clone();
        if let Some(preset) = &self.preset {
            // Before the other overrides, which it would undo.
            run.overrides.insert(0, format!("model.preset={preset}"));
        }
        Ok(run.load()?.model)
    }
}

/// A number of tokens, if it was given and the model has as many places.
fn within(flag: &str, asked: Option<usize>, most: usize) -> Result<Option<usize>, CliError> {
    match asked {
        Some(tokens) if !(1..=most).contains(&tokens) => {
            let reason = format!("the model has places for 1 to {most}");
            let next = "choose fewer, or override the length of the model";
            Err(CliError::invalid(format!("{flag} {tokens}"), reason, next))
        }
        asked => Ok(asked),
    }
}

impl Counted {
    fn of(model: &ModelSpec, text_tokens: usize, target_tokens: usize) -> Self {
        let cost = cost(model, text_tokens, target_tokens);
        Self {
            preset: model.preset,
            text_tokens,
            target_tokens,
            params: cost.parameters(),
            macs: cost.macs(),
            gflops_mac1: gflops(cost.macs(), 1),
            gflops_mac2: gflops(cost.macs(), 2),
            components: components(&cost),
        }
    }

    fn print(&self) {
        let (text, target) = (self.text_tokens, self.target_tokens);
        eprintln!("forward pass of one example: {text} text tokens, {target} target tokens");
        let row = |name: &str, params, macs| {
            let (one, two) = (gflops(macs, 1), gflops(macs, 2));
            let name = name.to_owned();
            vec![
                name,
                count(params),
                count(macs),
                format!("{one:.3}"),
                format!("{two:.3}"),
            ]
        };
        let parts = self.components.iter();
        let mut rows: Vec<_> = parts
            .map(|part| row(part.name, part.params, part.macs))
            .collect();
        rows.push(row("total", self.params, self.macs));
        let header = [
            "part",
            "parameters",
            "MACs",
            "GFLOP (MAC = 1)",
            "GFLOP (MAC = 2)",
        ];
        output::table(&header, &rows);
    }
}

fn components(cost: &Cost) -> Vec<Component> {
    let component = |part: &Part| Component {
        name: part.name,
        params: part.parameters,
        small_params: part.small_parameters,
        macs: part.macs,
        gflops_mac1: gflops(part.macs, 1),
        gflops_mac2: gflops(part.macs, 2),
    };
    cost.parts.iter().map(component).collect()
}

/// 10^9 floating-point operations of `macs` multiply-accumulates that count `each`.
fn gflops(macs: u64, each: u64) -> f64 {
    (each * macs) as f64 / 1e9
}
