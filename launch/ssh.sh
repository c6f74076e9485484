#!/usr/bin/env bash
# A run on machines that are reached by SSH: launch/ssh.sh HOST,HOST,... CONFIG WORKDIR [--config.key=value ...]
#
# One process per host, with all its GPUs; the first host is the coordinator and must be reachable from
# the others by the name given here, at PORT (12355). Every host has this repository at the same path
# (or at DIR) and sees the same WORKDIR. SETUP is run before, e.g. SETUP='. ~/venv/bin/activate'.
# SIGTERM or Ctrl-C here ends the run everywhere, with a checkpoint. DRY_RUN=1 only prints the commands.

# shellcheck disable=SC2029 # Quoted here, to be read there.

set -euo pipefail
source "${BASH_SOURCE[0]%/*}/lib.sh"
(($# >= 3)) || usage
IFS=, read -r -a hosts <<<"$1"
train_line "${@:2}"

# The process itself, not the shells whose command it is in.
readonly pattern="^python -m dinojax.train --config=.* --workdir=$3 "
stop() {
  local host
  for host in "${hosts[@]}"; do
    ssh "$host" "pkill -TERM -f $(quoted "$pattern")" || true
  done
}

pids=()
for i in "${!hosts[@]}"; do
  command=(
    "${train[@]}"
    "--coordinator=${hosts[0]#*@}:${PORT:-12355}" "--num_processes=${#hosts[@]}" "--process_id=$i"
  )
  # exec: the connection ends with the status of Python, not with that of a shell that was killed.
  remote="cd $(quoted "${DIR:-$PWD}") && ${SETUP:+$SETUP && }exec $(quoted "${command[@]}")"
  if announce "${command[@]}"; then
    ssh "${hosts[i]}" "$remote" &
    pids+=($!)
  fi
done
wait_all stop "${pids[@]}"
