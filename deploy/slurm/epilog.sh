#!/bin/bash
# For slurm.conf's Epilog=: what a job that was killed leaves on its node. Runs as root when a job ends there.
# It removes only what belongs to that job: in doubt it leaves things where they are.
TARGETS="${TARGETS:-/shared/trainbeacon/targets}"
own() { [ -d "$1" ] && [ ! -L "$1" ] && [ "$(stat --format=%u "$1")" = "$SLURM_JOB_UID" ]; }

if [ -n "${SLURM_JOB_ID:-}" ] && [ -n "${SLURM_JOB_UID:-}" ]; then
  folder="/dev/shm/trainbeacon-job-$SLURM_JOB_ID"
  own "$folder" && rm -rf "$folder"

  # The user's default folder goes with their last job on the node: when Slurm says that there is no other in
  # whatever state, and no process of theirs is left either, such as an exporter that shows the end. If squeue fails it stays.
  folder="/dev/shm/trainbeacon-$SLURM_JOB_UID"
  if own "$folder" && others="$(squeue --noheader --user="$SLURM_JOB_UID" --format=%A \
    --nodelist="${SLURMD_NODENAME:-$(hostname -s)}" 2>/dev/null)"; then
    others="$(grep --invert-match --line-regexp --fixed-strings "$SLURM_JOB_ID" <<<"$others")"
    processes="$(ps -o stat= -U "$SLURM_JOB_UID")"
    found=$? # 1: none was found; more: ps itself failed
    processes="$(grep --invert-match '^Z' <<<"$processes")" # what is dead and not yet fetched
    if [ "$found" -le 1 ] && [ -z "${processes//[[:space:]]/}" ] && [ -z "${others//[[:space:]]/}" ]; then
      rm -rf "$folder"
    fi
  fi
  "$(dirname "$0")/clean-targets.py" "$TARGETS" --here --user "$SLURM_JOB_UID"
fi
exit 0 # never drain a node for our sake
