#!/usr/bin/env bash
# A search on two whole nodes of a Slurm cluster, which goes on by itself after the time limit or the loss of a node:
#   sbatch deploy/slurm.sh my_space:digits --name digits-1 --trials 30
# All that follows the file's name is given to `robsearch launch`. Change: the nodes, the time, and for GPUs
# `--gpus-per-node`, here or before the file's name. deploy/README.md has the steps before.
#SBATCH --job-name=robsearch
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
# Whole nodes: `ray symmetric-run` refuses a node with another Ray, and at its end stops every Ray of yours on it.
#SBATCH --exclusive
#SBATCH --time=24:00:00
# Three minutes before the limit this script is told, saves what trains, and asks Slurm to start it again.
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
# Slurm keeps a job's environment on its controller: no password goes there.
#SBATCH --export=NONE
set -euo pipefail

. /shared/robsearch.sh
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
# This script runs on the first node, which is the head. Name another address of it where the nodes reach each other
# through another network.
address=$(hostname -I | cut -d ' ' -f 1)
driver=$(mktemp)
trap 'rm -f "$driver"' EXIT

# shellcheck disable=SC2016  # in $0 the inner shell has the name of the file
everywhere=(ray symmetric-run --address "$address:6379" --min-nodes "$SLURM_JOB_NUM_NODES" --disable-usage-stats --
  bash -c 'echo $$ >"$0" && exec robsearch launch "$@"' "$driver" "$@" --or-resume --address "$address:6379")

others=$((SLURM_JOB_NUM_NODES - 1))
if [ "$others" -gt 0 ]; then # they join again after a failure, and Slurm ends them with this script
  srun --export=ALL --cpu-bind=none --nodes="$others" --ntasks="$others" --relative=1 \
    bash -c 'while true; do "$@"; sleep 5; done' join "${everywhere[@]}" &
fi
"${everywhere[@]}" &
head=$!

# The running epochs have 20 s to end, and are saved. Before there is a driver, there is nothing to save.
stopping=
# shellcheck disable=SC2329  # the trap calls it
stop() {
  stopping=yes
  kill -TERM "$(cat "$driver")" 2>/dev/null || kill -TERM "$head" || true
}
trap stop USR1 TERM

code=0
wait "$head" || code=$?
if [ -n "$stopping" ]; then # the signal ended that wait
  code=0
  wait "$head" || code=$?
fi
if [ ! -s "$driver" ]; then # where Ray does not start, `ray symmetric-run` ends with 0
  echo "Ray did not start: robsearch was not run" >&2
  code=1
fi
if [ -n "$stopping" ] && [ "$code" -ne 0 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
