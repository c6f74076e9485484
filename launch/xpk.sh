#!/usr/bin/env bash
# A run on a GKE cluster of TPUs through xpk: launch/xpk.sh NAME TYPE CONFIG WORKDIR [--config.key=value ...]
#
# NAME is that of the workload, TYPE e.g. v5litepod-16 or v5p-256. CLUSTER and IMAGE must be set, ZONE
# and PROJECT default to those of gcloud. DRY_RUN=1 only prints the commands.

set -euo pipefail
source "${BASH_SOURCE[0]%/*}/lib.sh"
(($# >= 4)) || usage
train_line "${@:3}"

printf '%s\n' "$(quoted "${train[@]}")"
# exec: xpk sends SIGTERM to a shell around the command, which would not pass it on.
run xpk workload create \
  --cluster="${CLUSTER:?set CLUSTER to the name of the cluster}" ${ZONE:+"--zone=$ZONE"} \
  ${PROJECT:+"--project=$PROJECT"} --workload="$1" --tpu-type="$2" \
  --docker-image="${IMAGE:?set IMAGE to a container image with dinojax}" \
  --max-restarts="$MAX_RESTARTS" --restart-on-exit-codes="$(IFS=,; echo "${RESUMABLE[*]}")" \
  --termination-grace-period-seconds="$GRACE_S" \
  --command="exec $(quoted "${train[@]}")"
