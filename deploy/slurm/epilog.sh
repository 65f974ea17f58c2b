#!/bin/bash
# For slurm.conf's Epilog=: what a job that was killed leaves on its node. Runs as root when a job ends there.
TARGETS="${TARGETS:-/shared/trainbeacon/targets}"
rm -rf "/dev/shm/trainbeacon-job-${SLURM_JOB_ID:?}"
# The user's default folder goes with their last job on the node.
if [ -z "$(squeue --noheader --user="${SLURM_JOB_UID:?}" --nodelist="$(hostname -s)" --states=RUNNING 2>/dev/null)" ]; then
  rm -rf "/dev/shm/trainbeacon-$SLURM_JOB_UID"
fi
"$(dirname "$0")/clean-targets.py" "$TARGETS" --host "$(hostname)" --minutes 0
exit 0 # never drain a node for our sake
