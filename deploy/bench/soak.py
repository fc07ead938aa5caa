#!/usr/bin/env python3
"""A long run under faults: no step lost, no bit changed, nothing that grows.

Trains a small run with three workers while something happens every 5 to 15 seconds: a worker is killed,
stopped and continued, or asked to leave, or the coordinator is killed or stopped for a while. At the end
it prints what happened, how memory, threads and descriptors of the coordinator and the supervisor went,
and whether the digest and every loss are those of the same run undisturbed on one worker.

    deploy/bench/soak.py target/release/ringmaster [--minutes 30] [--seed 1] [--run tests/fixtures/small.toml]
"""

import argparse
import collections
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time

FAULTS = ("kill worker", "pause worker", "drain worker", "kill coordinator", "pause coordinator")


def metrics(folder):
    """Loss of every step as written; a step that is there twice is an error of the run."""
    losses = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        step = json.loads(line)
        assert step["step"] not in losses, f"step {step['step']} is logged twice"
        losses[step["step"]] = (step["loss"], step["row_hash"])
    return losses


def usage(pid):
    """Resident KiB, threads and descriptors of a process; None once it is gone."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        return int(fields["VmRSS"].split()[0]), int(fields["Threads"]), descriptors
    except (OSError, KeyError):
        return None


class Run:
    """One run of the command in a store of its own."""

    def __init__(self, ringmaster, store, name, file, steps):
        self.folder = pathlib.Path(store, name)
        self.ringmaster = ringmaster
        self.sets = ["--set", f'run.store="{store}"', "--set", f"run.name={name}", "--set", f"run.steps={steps}"]
        self.file = file

    def start(self, workers):
        command = [self.ringmaster, "train", self.file, "--workers", str(workers), "--output", "json", *self.sets]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def whole(self, workers):
        """Runs it to its end; its digest."""
        process = self.start(workers)
        said = process.communicate()[0].splitlines()
        assert process.returncode == 0, f"the run ended with {process.returncode}"
        return json.loads(said[-1])["digest"]

    def status(self):
        command = [self.ringmaster, "status", str(self.folder), "--output", "json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def coordinator(self):
        return json.loads((self.folder / "endpoint.json").read_text())["pid"]


def send(pid, what):
    """Sends a signal; whether the process was there."""
    try:
        os.kill(pid, what)
        return True
    except ProcessLookupError:
        return False


def disturb(run, draw, fault):
    """Does it; whether it could."""
    if fault.endswith("coordinator"):
        pid = run.coordinator()
    else:
        status = run.status()
        ranked = [w["pid"] for w in (status or {}).get("workers", []) if w["rank"] is not None]
        if not ranked:
            return False
        pid = draw.choice(ranked)
    if fault.startswith("kill"):
        return send(pid, signal.SIGKILL)
    if fault.startswith("drain"):
        return send(pid, signal.SIGTERM)
    if not send(pid, signal.SIGSTOP):
        return False
    time.sleep(draw.uniform(0.5, 6.0))
    return send(pid, signal.SIGCONT)


def soak(run, draw):
    """Disturbs the run until it ends. What was done, and samples of who should not grow."""
    done, samples = collections.Counter(), []
    process = run.start(3)
    while process.poll() is None:
        until = time.monotonic() + draw.uniform(5, 15)
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.2)
        try:
            samples.append((usage(process.pid), usage(run.coordinator())))
            fault = draw.choice(FAULTS)
            # A worker that was asked to leave is not started again; the run is given another.
            if disturb(run, draw, fault):
                done[fault] += 1
            if fault == "drain worker":
                for workers in ("2", "3"):
                    scale = [run.ringmaster, "scale", workers, str(run.folder)]
                    subprocess.run(scale, capture_output=True, check=False)
                    time.sleep(1)
        except (OSError, json.JSONDecodeError):
            pass  # The run is starting or ending.
    said = process.communicate()[0].splitlines()
    assert process.returncode == 0, f"the run ended with {process.returncode}"
    return json.loads(said[-1])["digest"], done, samples


def growth(samples, which):
    """First and last third of the samples, medians: KiB, threads, descriptors."""
    known = [sample[which] for sample in samples if sample[which]]
    third = max(1, len(known) // 3)
    median = lambda part: [round(statistics.median(column)) for column in zip(*part)]
    return median(known[:third]), median(known[-third:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ringmaster", type=pathlib.Path)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--run", type=pathlib.Path, default=pathlib.Path("tests/fixtures/small.toml"))
    parser.add_argument("--keep", type=pathlib.Path, help="an empty folder that the runs are left in")
    args = parser.parse_args()
    ringmaster, file = str(args.ringmaster.resolve()), str(args.run.resolve())
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        store = str(args.keep.resolve()) if args.keep else temporary
        pilot = Run(ringmaster, store, "pilot", file, 200)
        pilot.whole(3)
        lines = (pilot.folder / "metrics.jsonl").read_text().splitlines()
        seconds = statistics.median(json.loads(line)["seconds"] for line in lines)
        steps = round(60 * args.minutes / seconds / 1.5)
        print(f"{steps} steps of {1e3 * seconds:.0f} ms", flush=True)
        disturbed = Run(ringmaster, store, "disturbed", file, steps)
        began = time.monotonic()
        digest, done, samples = soak(disturbed, draw)
        took = (time.monotonic() - began) / 60
        print(f"{took:.1f} min, {sum(done.values())} faults: {dict(done)}", flush=True)
        for which, who in enumerate(("supervisor", "coordinator")):
            first, last = growth(samples, which)
            print(f"{who}: KiB, threads, descriptors {first} in the first third, {last} in the last")
        verify = [ringmaster, "ledger", "verify", str(disturbed.folder)]
        print(subprocess.run(verify, capture_output=True, text=True, check=False).stdout.strip(), flush=True)
        undisturbed = Run(ringmaster, store, "undisturbed", file, steps)
        same = undisturbed.whole(1) == digest and metrics(undisturbed.folder) == metrics(disturbed.folder)
        print("digest and every loss equal the undisturbed run's" if same else "NOT the undisturbed run's")
        sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
