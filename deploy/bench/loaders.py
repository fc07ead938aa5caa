#!/usr/bin/env python3
"""How fast pictures are made ready, next to Hugging Face datasets (streaming) and webdataset.

The same photographs for all: Parquet, and tar files of the same bytes. Read, shuffled, decoded, resized to
224 x 224 and normalised, in batches: by the peers with worker processes of PyTorch's DataLoader and Pillow,
by `ringmaster bench loader` with as many threads, once with the pixels of the peers and once with
data.dct_scaling. Everything is measured once per round, so that all see the same machine. Prints, per round
and as medians, examples per second and how many times as many they are as the better peer's; and the same
of processor time, which other programs on the machine disturb little.

    deploy/bench/loaders.py target/release/ringmaster [--rounds 3] [--workers 2] [--rows 4096] [--python PYTHON]

PYTHON has the packages of PACKAGES; without it they are installed into an environment that is removed again.
"""

import argparse
import io
import json
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import tarfile
import tempfile
import time
import venv

PACKAGES = ["datasets", "pillow", "pyarrow", "torch", "webdataset"]
PEERS = {"hf": "Hugging Face datasets", "wds": "webdataset"}
BATCH = 64
SHUFFLED = 1000
SIZE = 224


def tensor(encoded):
    """What the model sees of a picture."""
    import numpy
    import torch
    from PIL import Image
    picture = Image.open(io.BytesIO(encoded)).convert("RGB").resize((SIZE, SIZE), Image.BILINEAR)
    values = (numpy.asarray(picture, numpy.float32) / 255 - 0.5) / 0.5
    return torch.from_numpy(values.transpose(2, 0, 1).copy())


def ready(row):
    return {"x": tensor(row["image"]["bytes"]), "t": row["caption"]}


def collate(rows):
    import torch
    return torch.stack([row["x"] for row in rows]), [row["t"] for row in rows]


def examples(peer, folder):
    """Examples of a peer as somebody would write it who follows its manual."""
    if peer == "wds":
        import webdataset
        tars = sorted(str(path) for path in folder.glob("*.tar"))
        rows = webdataset.WebDataset(tars, shardshuffle=100).shuffle(SHUFFLED).to_tuple("jpg", "txt")
        return rows.map(lambda row: {"x": tensor(row[0]), "t": row[1].decode()})
    import datasets
    files = sorted(str(path) for path in folder.glob("*.parquet"))
    rows = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    rows = rows.cast_column("image", datasets.Image(decode=False)).shuffle(seed=1, buffer_size=SHUFFLED)
    return rows.map(ready, remove_columns=rows.column_names)


def core_seconds():
    """Processor time so far of this process and of its workers."""
    pids = [os.getpid()] + [worker.pid for worker in multiprocessing.active_children()]
    stats = [pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


def measure_peer(peer, folder, workers, rows):
    """Prints examples per second and the processor time of one, after the first batch."""
    import torch
    torch.set_num_threads(1)
    loader = torch.utils.data.DataLoader(examples(peer, folder), BATCH, num_workers=workers, collate_fn=collate)
    batches = iter(loader)
    next(batches)
    began, cores, done = time.perf_counter(), core_seconds(), 0
    for pictures, _ in batches:
        done += len(pictures)
        if done >= rows - 4 * BATCH:
            break
    print(json.dumps([done / (time.perf_counter() - began), (core_seconds() - cores) / done]), flush=True)
    os._exit(0)  # Workers that have not finished their shards are not waited for.


def make_tars(folder):
    """A tar file beside each Parquet file, of the same rows."""
    import pyarrow.parquet
    for path in sorted(folder.glob("*.parquet")):
        with tarfile.open(path.with_suffix(".tar"), "w") as tar:
            for number, row in enumerate(pyarrow.parquet.read_table(path).to_pylist()):
                for kind, content in (("jpg", row["image"]["bytes"]), ("txt", row["caption"].encode())):
                    member = tarfile.TarInfo(f"{path.stem}-{number:06}.{kind}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def said(command, **more):
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, **more).stdout.splitlines()[-1])


def compare(args, python, folder):
    ringmaster = [str(args.ringmaster.resolve()), "bench", "loader", "--output", "json"]
    make = [*ringmaster, "--keep", str(folder), "--rows", str(args.rows), "--seconds", "1"]
    subprocess.run(make, check=True, capture_output=True)
    itself = [python, os.path.abspath(__file__), "-", "--at", str(folder), "--rows", str(args.rows)]
    subprocess.run([*itself, "--peer", "tars"], check=True)
    measure = [*ringmaster, "--source", str(folder), "--threads", str(args.workers), "--seconds", str(args.seconds)]
    print("round  of                  hf      wds  ringmaster  (times)  dct_scaling  (times)  load", flush=True)
    rounds = []
    for number in range(args.rounds):
        peers = [said([*itself, "--peer", peer, "--workers", str(args.workers)]) for peer in PEERS]
        ours = [said(measure), said([*measure, "--dct-scaling"])]
        rates = [peer[0] for peer in peers] + [one["whole_per_second"] for one in ours]
        cores = [1e6 * peer[1] for peer in peers] + [1e6 * one["whole_core_seconds"] for one in ours]
        rounds.append([rate / max(rates[:2]) for rate in rates[2:]] + [min(cores[:2]) / core for core in cores[2:]])
        for name, values, times in (("examples/s", rates, rounds[-1][:2]), ("core us", cores, rounds[-1][2:])):
            row = f"{number:5}  {name:12}  {values[0]:8.0f} {values[1]:8.0f}  {values[2]:10.0f}  {times[0]:7.2f}"
            print(f"{row}  {values[3]:11.0f}  {times[1]:7.2f}  {os.getloadavg()[0]:.1f}", flush=True)
    plain, dct, of_cores, dct_of_cores = (statistics.median(column) for column in zip(*rounds))
    print(f"medians: {plain:.2f} times the better peer, {dct:.2f} with dct_scaling")
    print(f"of processor time: {of_cores:.2f} and {dct_of_cores:.2f} times")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ringmaster", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--python", help="a Python with the packages")
    parser.add_argument("--peer", choices=[*PEERS, "tars"], help=argparse.SUPPRESS)
    parser.add_argument("--at", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer == "tars":
        make_tars(args.at)
    elif args.peer:
        measure_peer(args.peer, args.at, args.workers, args.rows)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            python = args.python
            if python is None:
                environment = pathlib.Path(temporary, "python")
                venv.create(environment, with_pip=True)
                python = str(environment / "bin" / "python")
                subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
            folder = pathlib.Path(temporary, "corpus")
            folder.mkdir()
            compare(args, python, folder)


if __name__ == "__main__":
    main()
