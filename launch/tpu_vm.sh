#!/usr/bin/env bash
# A run on Cloud TPU VMs, of one or many hosts:
#   launch/tpu_vm.sh create NAME TYPE       queue for a slice, e.g. v5litepod-16; SPOT=1: pre-emptible
#   launch/tpu_vm.sh setup NAME             copy this repository to all its hosts and install it
#   launch/tpu_vm.sh run NAME CONFIG WORKDIR [--config.key=value ...]
#   launch/tpu_vm.sh stop NAME              end the run on all hosts, with a checkpoint
#   launch/tpu_vm.sh delete NAME
#
# ZONE must be set; PROJECT defaults to that of gcloud. WORKDIR must be the same directory on all hosts
# (Filestore, for example). DRY_RUN=1 only prints the commands.

set -euo pipefail
source "${BASH_SOURCE[0]%/*}/lib.sh"
(($# >= 2)) || usage
readonly action="$1" name="$2"
place=("--zone=${ZONE:?set ZONE, e.g. us-west4-a}" ${PROJECT:+"--project=$PROJECT"})

on_all_hosts() {
  run gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker=all --command="$1"
}

# The software of the hosts, by type of slice.
runtime_version() {
  case "$1" in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) echo "TYPE=$1 is unknown; use e.g. v5litepod-16, v5p-256 or v6e-64" >&2 && return 2 ;;
  esac
}

case "$action" in
  create)
    (($# == 3)) || usage
    version="$(runtime_version "$3")"
    run gcloud compute tpus queued-resources create "$name" --node-id="$name" "${place[@]}" \
      --accelerator-type="$3" --runtime-version="$version" ${SPOT:+--spot}
    run gcloud compute tpus queued-resources describe "$name" "${place[@]}" \
      --format='value(state.state)'
    ;;
  setup)
    run gcloud compute tpus tpu-vm scp --recurse . "$name:dinojax" "${place[@]}" --worker=all
    # The system's Python is older than 3.11.
    on_all_hosts 'pip install --user uv && ~/.local/bin/uv venv --allow-existing --python=3.12 venv &&
      ~/.local/bin/uv pip install --python=venv -e "dinojax[tpu]"'
    ;;
  run)
    train_line "${@:3}"
    printf '%s\n' "$(quoted "${train[@]}")"
    on_all_hosts ". venv/bin/activate && cd dinojax && exec $(quoted "${train[@]}")"
    ;;
  stop)
    on_all_hosts "pkill -TERM -f '^python -m dinojax.train'"
    ;;
  delete)
    run gcloud compute tpus queued-resources delete "$name" "${place[@]}" --force --quiet
    ;;
  *) usage ;;
esac
