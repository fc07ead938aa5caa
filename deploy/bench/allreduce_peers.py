#!/usr/bin/env python3
"""All-reduce of f32 on one machine: ringmaster beside gloo and Open MPI, in interleaved rounds.

usage: allreduce_peers.py RINGMASTER [--world 2] [--mib 0.00390625,1,64,256] [--rounds 20]

Needs torch, mpi4py and numpy in this Python, and mpirun on the path. In each round every program
runs once per size, one after the other, as processes of its own; it makes a few calls, of which the
median counts. Prints, per size, the median of those over the rounds in milliseconds, and the ratio
of each line's to the first one's: above 1, the first is faster. Ringmaster's lines are --ours, by
default tcp-f32 first; with shm its ranks share memory, as ranks of one host do in a run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

MPI = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]
TCP = ["--mca", "btl", "tcp,self", "--mca", "pml", "ob1", "--mca", "btl_tcp_if_include", "lo"]
MPI_NAMES = {"openmpi-tcp": TCP, "openmpi-shm": []}


def report(seconds):
    print(json.dumps(statistics.median(seconds)), flush=True)


def mpi_rank(elements, repeats):
    import numpy as np
    from mpi4py import MPI as mpi

    comm = mpi.COMM_WORLD
    values, seconds = np.ones(elements, np.float32), []
    for repeat in range(repeats + 1):
        values.fill(comm.rank + 1)
        comm.Barrier()
        start = time.perf_counter()
        comm.Allreduce(mpi.IN_PLACE, values, mpi.SUM)
        seconds += [time.perf_counter() - start][: repeat > 0]
        assert values[0] == comm.size * (comm.size + 1) / 2
    if comm.rank == 0:
        report(seconds)


def gloo_rank(rank, world, elements, repeats, store):
    import torch
    import torch.distributed as dist

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    values, seconds = torch.ones(elements), []
    for repeat in range(repeats + 1):
        values.fill_(rank + 1)
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(values)
        seconds += [time.perf_counter() - start][: repeat > 0]
        assert values[0].item() == world * (world + 1) / 2
    if rank == 0:
        report(seconds)
    dist.destroy_process_group()


def gloo(world, elements, repeats):
    import tempfile

    import torch.multiprocessing as mp

    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(gloo_rank, (world, elements, repeats, f"{folder}/store"), nprocs=world)


def measure(name, args, mib, repeats):
    """Median seconds of one program's calls in one round."""
    elements, world = str(max(1, round(mib * 262144))), str(args.world)
    if name in MPI_NAMES:
        own = [sys.executable, __file__, "--rank", "mpi", elements, str(repeats)]
        command = MPI + ["-n", world] + MPI_NAMES[name] + own
    elif name == "gloo":
        command = [sys.executable, __file__, "--rank", "gloo", world, elements, str(repeats)]
    else:
        _, transport, reduction = name.split("-")
        command = [args.ringmaster, "bench", "allreduce", "--world", world, "--mib", repr(mib)]
        command += ["--transport", {"tcp": "tcp", "shm": "best"}[transport]]
        command += ["--repeats", str(repeats), "--reduction", reduction, "--output", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        sys.exit(f"{name} failed: {done.stderr[-2000:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["median_s"] if isinstance(answer, dict) else answer


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ringmaster")
    parser.add_argument("--world", type=int, default=2)
    parser.add_argument("--mib", default="0.00390625,1,64,256")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--peers", default="gloo,openmpi-tcp,openmpi-shm")
    ours = "tcp-f32,tcp-pump,tcp-exact,tcp-bf16,shm-f32,shm-pump,shm-exact"
    parser.add_argument("--ours", default=ours)
    args = parser.parse_args()
    names = [f"ringmaster-{name}" for name in args.ours.split(",")] + args.peers.split(",")
    for mib in map(float, args.mib.split(",")):
        repeats = 200 if mib < 0.1 else 20 if mib < 8 else 3
        found = {name: [] for name in names}
        for done in range(args.rounds):
            for name in names:
                found[name].append(measure(name, args, mib, repeats))
            print(f"{mib} MiB: round {done + 1} of {args.rounds}", file=sys.stderr)
        medians = {name: statistics.median(seconds) for name, seconds in found.items()}
        ours = medians[names[0]]
        for name, median in medians.items():
            best = min(found[name]) * 1e3
            print(
                f"{args.world} ranks {mib:>10g} MiB  {name:<18} median {median * 1e3:9.3f} ms  "
                f"best {best:9.3f} ms  ratio {median / ours:6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        kind, *numbers = sys.argv[2:]
        {"mpi": mpi_rank, "gloo": gloo}[kind](*map(int, numbers))
    else:
        main()
