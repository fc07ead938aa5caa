#!/usr/bin/env bash
# What only a GPU can show, in one go: speed beside PyTorch, equal bits, a worker killed, and NCCL.
# Each part says what it came to, and the others go on if one fails.
#
#   cargo build --release --features cuda
#   deploy/bench/gpu.sh OUT                 # a folder for results, logs and runs
#
# RINGMASTER names another binary, BATCHES other sizes, DEVICE=cpu tries the script where no GPU is.
# Without torch the comparison is left out. NCCL takes two ranks on one device only if it believes
# them to be on two hosts, so each gets an NCCL_HOSTID of its own.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
ringmaster=${RINGMASTER:-$here/../../target/release/ringmaster}
ringmaster=$(realpath "$ringmaster")
device=${DEVICE:-cuda:0}
out=${1:?where to put the results}
mkdir -p "$out" && cd "$out" || exit 2
failed=0

part() {
    local name=$1
    shift
    echo "== $name: $*"
    if ! "$@" >"$name.out" 2>"$name.err"; then
        failed=1
        echo "-- failed; the end of $name.err:"
        tail -n 15 "$name.err"
    fi
    tail -n 20 "$name.out"
}

# A short run in which everything is exact, so that its digest is one number to compare.
run=(--set run.steps=24 --set 'data.sources=[{url="scenes:4096"}]' --set eval.rows=0 --set train.digest_every=4
    --set train.precision=bf16 --set train.reduction=exact)

# Two workers, the second on the first one's heels: each its own host for NCCL.
two_ranks() {
    head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >token
    chmod 600 token
    local pipe=coordinator.pipe pids=()
    rm -f "$pipe" && mkfifo "$pipe"
    "$ringmaster" coordinator "${run[@]}" --set run.name=nccl --set membership.min_workers=2 \
        --set membership.max_workers=2 --token-file token --metrics-file nccl.jsonl >"$pipe" &
    pids+=($!)
    exec 3<"$pipe"
    local address
    read -r -u 3 address
    address=$(sed 's/.*"address":"\([^"]*\)".*/\1/' <<<"$address")
    for rank in 0 1; do
        NCCL_HOSTID=host$rank NCCL_DEBUG=WARN "$ringmaster" worker --coordinator "$address" \
            --token-file token --name "worker-$rank" --device "$device" &
        pids+=($!)
    done
    # The coordinator's last line, with the digest.
    cat <&3
    local rc=0
    for pid in "${pids[@]}"; do wait "$pid" || rc=$?; done
    return $rc
}

part one_and_two "$ringmaster" train "${run[@]}" --set run.name=killed --workers 2 \
    --device "$device" --kill-one-at 12 --fresh
part nccl two_ranks
grep -h "NCCL" nccl.err | sort | uniq -c | head
if grep -q '"digest"' nccl.out; then
    echo "digest with NCCL, and undisturbed on one worker: equal lines or something is wrong"
    grep -o '[0-9a-f]\{64\}' nccl.out | tail -n 1
    grep -oh '[0-9a-f]\{64\}' one_and_two.out | tail -n 1
fi
for batch in ${BATCHES:-64 128 256}; do
    part "step-$batch" "$ringmaster" bench step --preset base --set train.precision=bf16 \
        --batch "$batch" --matrix 8192 --device "$device"
done
if python3 -c 'import torch' 2>/dev/null; then
    base=$here/../../proto/src/spec/presets/base.toml
    for batch in ${BATCHES:-128 256}; do
        part "twin-eager-$batch" python3 "$here/pytorch_twin.py" --config "$base" \
            --batch "$batch" --device "${device%:*}" --no-compile
        part "twin-compiled-$batch" python3 "$here/pytorch_twin.py" --config "$base" \
            --batch "$batch" --device "${device%:*}" --matmul-rate
    done
fi
exit $failed
