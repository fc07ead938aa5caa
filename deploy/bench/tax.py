#!/usr/bin/env python3
"""What a run pays while nothing goes wrong: the default run with two workers, with and without.

"as it is" compares digests every 100 steps and saves every 100; "saving" saves every 5 steps; "without"
does neither until its end (heartbeats and deadlines stay: a run counts them itself, see what `train`
prints besides). Rounds are interleaved; each line is a median over the rounds, with the least and most.

    deploy/bench/tax.py target/release/ringmaster [--rounds 5] [--steps 100]
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile

NEVER = 100_000
VARIANTS = {
    "without": (NEVER, NEVER),
    "as it is": (100, 100),
    "saving": (5, NEVER),
}


def train(ringmaster, store, steps, every, digest_every):
    """Seconds of training, of copying for checkpoints, and counted besides."""
    sets = [f'run.store="{store}"', "run.name=tax", f"run.steps={steps}", "eval.rows=0", 'eval.sample_every="1day"',
            f"checkpoint.every={every}", f"train.digest_every={digest_every}", 'data.sources=[{url="scenes:2400"}]']
    command = [ringmaster, "train", "--fresh", "--workers", "2", "--output", "json"]
    for override in sets:
        command += ["--set", override]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])["tax"]


def spread(values, scale=1.0, digits=2):
    """A median, and between what."""
    low, middle, high = (scale * of(values) for of in (min, statistics.median, max))
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ringmaster", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()
    ringmaster = str(args.ringmaster.resolve())
    rounds = []
    with tempfile.TemporaryDirectory() as store:
        for number in range(args.rounds):
            rounds.append({name: train(ringmaster, store, args.steps, *every) for name, every in VARIANTS.items()})
            seconds = {name: round(tax["training_seconds"], 2) for name, tax in rounds[-1].items()}
            print(f"round {number + 1}: {seconds} s", flush=True)
    step = [r["without"]["training_seconds"] / args.steps for r in rounds]
    print(f"a step without, ms: {spread(step, 1e3, 1)}")
    longer = [r["as it is"]["training_seconds"] / r["without"]["training_seconds"] - 1 for r in rounds]
    print(f"as it is, longer by %: {spread(longer, 100)}")
    saves = (args.steps - 1) // VARIANTS["saving"][0]
    copy = [r["saving"]["saving_seconds"] / saves for r in rounds]
    print(f"a checkpoint's copy, ms: {spread(copy, 1e3, 1)}")
    whole = [(r["saving"]["training_seconds"] - r["without"]["training_seconds"]) / saves for r in rounds]
    stall = [(all_of_it - own) / one for all_of_it, own, one in zip(whole, copy, step)]
    print(f"a checkpoint besides its copy, % of a step: {spread(stall, 100)}")


if __name__ == "__main__":
    main()
