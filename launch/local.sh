#!/usr/bin/env bash
# One process on this machine, all its devices: launch/local.sh CONFIG WORKDIR [--config.key=value ...]
set -euo pipefail
(($# >= 2)) || { echo "usage: launch/local.sh CONFIG WORKDIR [--config.key=value ...]" >&2; exit 2; }
# Huge pages: on CPU the step touches gigabytes of fresh memory, in 4 kB pages by default.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
exec python -m dinojax.train --config="$1" --workdir="$2" "${@:3}"
