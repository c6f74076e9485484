# shellcheck shell=bash disable=SC2034
# What the launchers share; sourced, never run. With DRY_RUN=1 they only print what they would run.

# Exit codes after which the same command resumes the run: RESUMABLE in dinojax/runtime/exits.py.
readonly RESUMABLE=(4 6 7 9 134 137 143)
# How often a scheduler starts one run again: enough for weeks on spot machines.
readonly MAX_RESTARTS=100
# Seconds between SIGTERM and SIGKILL: what a checkpoint may take.
readonly GRACE_S=120

# Print the comment at the top of the script, and leave.
usage() {
  sed -n '2,/^[^#]\|^$/{ s/^# \{0,1\}//p }' "$0" >&2
  exit 2
}

# train_line CONFIG WORKDIR [--config.key=value ...]: set `train`, the command of every launcher.
train_line() {
  (($# >= 2)) || usage
  train=(python -m dinojax.train "--config=$1" "--workdir=$2" "${@:3}")
}

# A command as one would type it.
quoted() {
  local line
  printf -v line '%q ' "$@"
  printf '%s' "${line% }"
}

# Print a command; true if it shall be run as well.
announce() {
  printf '%s\n' "$(quoted "$@")"
  [[ -z "${DRY_RUN:-}" ]]
}

run() {
  if announce "$@"; then "$@"; fi
}

# wait_all STOP PID ...: wait for processes and return the highest status, as srun does. SIGTERM and
# SIGINT call STOP with the PIDs, and the waiting goes on.
wait_all() {
  local stop="$1" pid status worst=0 interrupted
  shift
  trap 'interrupted=1; "$stop" "$@"' TERM INT
  for pid; do
    interrupted=1
    while [[ -n "$interrupted" ]]; do
      interrupted=
      status=0
      wait "$pid" || status=$?
    done
    ((status <= worst)) || worst=$status
  done
  trap - TERM INT
  return "$worst"
}

# Whether a run that ended with this status shall be started again.
resumable() {
  [[ " ${RESUMABLE[*]} " == *" $1 "* ]]
}
