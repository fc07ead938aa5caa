#!/usr/bin/env python3
"""Loading from S3 behind a long way, next to loading the same files from the local disk.

Makes a corpus of photographs, serves it over HTTP as a bucket on loopback, every answer --latency
milliseconds after its request, and has `ringmaster bench loader` load the folder and the bucket in turns.
Prints the rate of the whole way of each, what an example costs in processor time, and the median of the
ratios. The server is on the same cores, but sends files by sendfile(2), which costs little.

    deploy/bench/s3.py target/release/ringmaster [--rounds 3] [--seconds 30] [--latency 50] [--rows 8192]
"""

import argparse
import asyncio
import hashlib
import json
import multiprocessing
import os
import pathlib
import socket
import statistics
import subprocess
import tempfile
import urllib.parse
from email.utils import formatdate

BUCKET = "corpus"


class Bucket:
    """The files of one folder as objects, read-only."""

    def __init__(self, folder, latency):
        self.latency = latency
        self.objects = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}

    def listing(self):
        entries = "".join(
            f"<Contents><Key>{name}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>{etag(path)}</ETag><Size>{path.stat().st_size}</Size></Contents>"
            for name, path in self.objects.items()
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()

    async def serve(self, reader, writer):
        """One connection, request after request."""
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(self.latency)
                await self.answer(head.decode(), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # The other end has what it wants.
        finally:
            writer.close()

    async def answer(self, head, writer):
        request, *lines = head.split("\r\n")
        method, target, _ = request.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        url = urllib.parse.urlsplit(target)
        path = self.objects.get(url.path.removeprefix(f"/{BUCKET}/"))
        if "list-type=2" in url.query:
            return say(writer, "200 OK", {}, self.listing())
        if path is None or method not in ("GET", "HEAD"):
            code = "NoSuchKey" if method in ("GET", "HEAD") else "AccessDenied"
            status = "404 Not Found" if code == "NoSuchKey" else "403 Forbidden"
            body = f"<Error><Code>{code}</Code><Message>read-only</Message></Error>"
            return say(writer, status, {}, body.encode())
        stat = path.stat()
        about = {"ETag": etag(path), "Last-Modified": formatdate(stat.st_mtime, usegmt=True)}
        start, end, status = 0, stat.st_size, "200 OK"
        if wanted := headers.get("range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(end, int(last) + 1) if last else end
            status, about["Content-Range"] = "206 Partial Content", f"bytes {start}-{end - 1}/{stat.st_size}"
        if method == "HEAD":
            return say(writer, status, about, b"", end - start)
        say(writer, status, about, b"", end - start)
        await writer.drain()
        with path.open("rb") as file:
            await asyncio.get_running_loop().sendfile(writer.transport, file, start, end - start)


def etag(path):
    stat = path.stat()
    return '"' + hashlib.md5(f"{path.name} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest() + '"'


def say(writer, status, headers, body, length=None):
    headers = {"Content-Length": len(body) if length is None else length, **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body)


def serve(folder, latency, listener):
    """Until the process is ended."""
    async def forever():
        server = await asyncio.start_server(Bucket(folder, latency).serve, sock=listener, limit=1 << 16)
        await server.serve_forever()
    asyncio.run(forever())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ringmaster", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--latency", type=float, default=50, help="milliseconds")
    parser.add_argument("--rows", type=int, default=8192)
    args = parser.parse_args()
    bench = [str(args.ringmaster.resolve()), "bench", "loader", "--output", "json"]
    with tempfile.TemporaryDirectory() as folder:
        make = [*bench, "--keep", folder, "--rows", str(args.rows), "--seconds", "1"]
        subprocess.run(make, check=True, capture_output=True)
        listener = socket.create_server(("127.0.0.1", 0))
        serving = (pathlib.Path(folder), args.latency / 1e3, listener)
        server = multiprocessing.Process(target=serve, args=serving, daemon=True)
        server.start()
        env = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{listener.getsockname()[1]}", "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "anybody", "AWS_SECRET_ACCESS_KEY": "anything", "AWS_REGION": "us-east-1",
        }
        print("round  local/s     s3/s  ratio  core us: local  s3  load", flush=True)
        ratios = []
        for number in range(args.rounds):
            measure = [*bench, "--source", folder, "--against", f"s3://{BUCKET}", "--seconds", str(args.seconds)]
            done = subprocess.run(measure, stdout=subprocess.PIPE, check=True, env={**os.environ, **env})
            said = json.loads(done.stdout)
            ratios.append(said["against_of_whole"])
            rates = f"{said['whole_per_second']:7.0f}  {said['against_per_second']:7.0f}  {ratios[-1]:5.3f}"
            cores = f"{1e6 * said['whole_core_seconds']:14.0f}  {1e6 * said['against_core_seconds']:.0f}"
            print(f"{number:5}  {rates}  {cores}  {os.getloadavg()[0]:.1f}", flush=True)
        server.terminate()
        print(f"median of the ratios {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
