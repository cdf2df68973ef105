#!/usr/bin/env bash
# N processes of one machine, joined over the loopback: tries a multi-host run.
#
#     experiments/launch/local.sh 2 python -m experiments.SCRIPT --flag=...
#
# The first process writes to the terminal, the others to local-PROCESS.log. Ends with
# the first failure, and then ends all of them.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 PROCESSES COMMAND..." >&2; exit 2; }
export NUM_PROCESSES=$1
shift
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export COORDINATOR_ADDRESS=127.0.0.1:$port
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
for ((id = 1; id < NUM_PROCESSES; id++)); do
  PROCESS_ID=$id "$@" >"local-$id.log" 2>&1 &
done
PROCESS_ID=0 "$@" &
for ((id = 0; id < NUM_PROCESSES; id++)); do
  wait -n
done
