#!/usr/bin/env python3
"""How long a step of a real run waits for the all-reduce, with and without overlap.

Trains the default run and one of 97 million parameters with two workers on this machine, plainly and
behind a link of 1 Gbit/s (a token bucket on the loopback of a network namespace of its own, which both
directions share; needs root), and prints medians over the steps.

    deploy/bench/exposed.py target/release/ringmaster [--runs default,97m] [--links plain,1gbit]
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile

WIDE = [f"model.{key}=768" for key in ("width", "text_width", "image_width")]
WIDE += [f"model.{key}=12" for key in ("heads", "text_heads", "image_heads")]
WIDE += [f"model.{key}=3072" for key in ("mlp_width", "text_mlp_width", "image_mlp_width", "fusion_mlp_width")]

# Overrides, and how many of the first steps are left out.
RUNS = {
    "default": (["run.steps=80"], 10),
    "97m": (["run.steps=10", "data.lanes=4", "data.lane_batch=4", "train.warmup_steps=2", *WIDE], 2),
}
LINKS = {
    "plain": [],
    "1gbit": ["unshare", "-n", "sh", "-c",
              "ip link set lo up && tc qdisc add dev lo root tbf rate 1gbit burst 256k latency 50ms "
              '&& exec "$@" --set train.transport=tcp', "sh"],
}
QUIET = ["eval.rows=0", "checkpoint.every=100000", "train.digest_every=100000", 'data.sources=[{url="scenes:2400"}]']
SECONDS = ("seconds", "reduce_seconds", "exposed_seconds")


def measure(ringmaster, store, run, link, overlap):
    """Medians of SECONDS over the steps of one run, milliseconds."""
    overrides, skipped = RUNS[run]
    sets = [f'run.store="{store}"', f"run.name={run}", f"train.overlap={overlap}", *QUIET, *overrides]
    command = [ringmaster, "train", "--fresh", "--workers", "2"]
    for override in sets:
        command += ["--set", override]
    subprocess.run(LINKS[link] + command, check=True, capture_output=True)
    lines = pathlib.Path(store, run, "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines][skipped:]
    return [1e3 * statistics.median(step[key] for step in steps) for key in SECONDS]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ringmaster", type=pathlib.Path)
    parser.add_argument("--runs", default="default,97m")
    parser.add_argument("--links", default="plain,1gbit")
    args = parser.parse_args()
    ringmaster = str(args.ringmaster.resolve())
    print("run      link   overlap  step ms  reduce ms  exposed ms", flush=True)
    with tempfile.TemporaryDirectory() as store:
        for run in args.runs.split(","):
            for link in args.links.split(","):
                for overlap in ("true", "false"):
                    step, reduce, exposed = measure(ringmaster, store, run, link, overlap)
                    row = f"{run:8} {link:6} {overlap:7} {step:8.1f}  {reduce:9.1f}  {exposed:10.2f}"
                    print(row, flush=True)


if __name__ == "__main__":
    main()
