#!/bin/bash
# The whole job under Slurm, in as many jobs as the time limit makes of it:
#
#     sbatch examples/slurm.sh --config qwen2.5-math-1.5b --out /shared/runs/mine
#
# Arguments after the script's name go to `lightr run`. Slurm warns the job two minutes before its time limit;
# `lightr` then saves what is finished and exits with 138, the job is requeued, and the next sitting goes on from there.
# Nodes without internet: download both models and the data on a login node, and export HF_HUB_OFFLINE=1 here.
#
#SBATCH --job-name=lightreasoner
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --mem=48G
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=lightreasoner-%j.log

set -u
STOPPED=138  # 128 + SIGUSR1: stopped by the warning
SITTINGS=50  # a job that never gets anything done must not requeue itself for ever

# source .venv/bin/activate

code=0
srun lightr run "$@" || code=$?

if [ "$code" -eq "$STOPPED" ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "$SITTINGS" ]; then
  echo "requeued after sitting $((${SLURM_RESTART_COUNT:-0} + 1))"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
