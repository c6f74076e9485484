#!/usr/bin/env bash
# A run on this machine: launch/local.sh CONFIG WORKDIR [--config.key=value ...]
#
# PROCESSES=N starts N processes that find each other on localhost and share the GPUs evenly; without
# GPUs each has JAX_NUM_CPU_DEVICES devices. One process drives all GPUs of a machine as well.
# PORT is that of process 0. DRY_RUN=1 only prints the commands.

set -euo pipefail
source "${BASH_SOURCE[0]%/*}/lib.sh"
train_line "$@"

# Huge pages: on CPU the step touches gigabytes of fresh memory, in 4 kB pages by default.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"

processes="${PROCESSES:-1}"
if ((processes == 1)); then
  if announce "${train[@]}"; then exec "${train[@]}"; fi
  exit
fi

gpus=()
if [[ -n "${CUDA_VISIBLE_DEVICES+x}" ]]; then  # empty: none of them
  IFS=, read -r -a gpus <<<"$CUDA_VISIBLE_DEVICES"
elif command -v nvidia-smi >/dev/null; then
  mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader)
fi
share=$((${#gpus[@]} / processes))
if ((share * processes != ${#gpus[@]})); then
  echo "PROCESSES=$processes must divide the ${#gpus[@]} GPUs; use 1" >&2
  exit 2
fi

stop() { kill -TERM "$@" 2>/dev/null || true; }

port="${PORT:-$((20000 + $$ % 10000))}"
pids=()
for ((i = 0; i < processes; i++)); do
  devices=()
  if ((share)); then
    devices=(env "CUDA_VISIBLE_DEVICES=$(IFS=,; echo "${gpus[*]:i * share:share}")")
  fi
  command=(
    "${devices[@]}" "${train[@]}"
    "--coordinator=localhost:$port" "--num_processes=$processes" "--process_id=$i"
  )
  if announce "${command[@]}"; then
    "${command[@]}" &
    pids+=($!)
  fi
done
wait_all stop "${pids[@]}"
