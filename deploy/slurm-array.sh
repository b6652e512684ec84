#!/usr/bin/env bash
#SBATCH --job-name=kidney-tumor
#SBATCH --array=0-7
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
#SBATCH --time=04:00:00
#SBATCH --requeue
# Many CTs on many nodes: each task of the array takes every N-th case. From the repository's folder:
#
#   sbatch [--array=0-31] deploy/slurm-array.sh IN OUT [options of the command]
#
# After a stop, submit the same line again: cases that are written already are skipped.
# IMAGE=FILE.sif runs it in a container (apptainer build FILE.sif docker-daemon:nested-vnet-kits19:latest).
set -euo pipefail
[ $# -ge 2 ] || {
  echo "usage: sbatch deploy/slurm-array.sh IN OUT [options]" >&2
  exit 2
}
in=$1 out=$2
options=(--shard "$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))/$SLURM_ARRAY_TASK_COUNT" --skip-existing "${@:3}")
if [ -n "${IMAGE:-}" ]; then
  gpus=()
  [ -z "${SLURM_JOB_GPUS:-}" ] || gpus=(--nv)
  exec apptainer run --containall "${gpus[@]}" --bind "$in:/input:ro,$out:/output" "$IMAGE" "${options[@]}"
fi
# not from this script's own folder: Slurm runs a copy of it from elsewhere
exec "${SLURM_SUBMIT_DIR:-.}/run.sh" segment "$in" "$out" "${options[@]}"
