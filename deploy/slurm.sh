#!/bin/bash
#SBATCH --job-name=lst-tokenize
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#
# Ray on all nodes of a Slurm allocation, and the line on it:
#
#   sbatch deploy/slurm.sh --config configs/librilight.yaml
#
# Submit it from a checkout on a file system that all nodes share. Five minutes before the end the line is told to finish what is in
# flight; it exits with 75 and the job goes back into the queue. Kills without warning cost the partitions in flight.
set -uo pipefail

cd "${SLURM_SUBMIT_DIR:?sbatch sets it}" || exit 2
PATH=$PWD/.venv/bin:$PATH
export PATH PYTHONPATH=$PWD RAY_USAGE_STATS_ENABLED=0

# Whoever reaches Ray's ports, on nodes and a network that others use too, can run code in your name (docs/cluster.md): Ray asks
# for a token that this job alone has. What you have set yourself stands.
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
if [ -z "${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-}" ]; then
    RAY_AUTH_TOKEN=$(od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n')
    export RAY_AUTH_TOKEN
fi

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
port=$((20000 + SLURM_JOB_ID % 12000)) # two jobs on one node do not meet; the kernel gives ports above these away
gpus=${SLURM_GPUS_ON_NODE:-0}
address=$(srun --nodes=1 --ntasks=1 --overlap -w "$head" hostname --ip-address | awk '{print $1}'):$port

# --block: Ray lives as long as its step. num-cpus: what Slurm gave, not what the machine has.
srun --nodes=1 --ntasks=1 --overlap -w "$head" \
    ray start --head --port="$port" --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$gpus" \
    --metrics-export-port=8080 --disable-usage-stats --block &
if [ "${#nodes[@]}" -gt 1 ]; then
    rest=$(IFS=,; echo "${nodes[*]:1}")
    sleep 10
    srun --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --overlap -w "$rest" \
        ray start --address="$address" --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$gpus" \
        --metrics-export-port=8080 --block &
fi

line='' stopped=''
trap 'stopped=1; [ -z "$line" ] || kill -TERM "$line"' TERM INT # from --signal, and from scancel

for _ in $(seq 60); do # until all nodes have joined, two minutes at most; late ones join while the line runs
    joined=$(RAY_ADDRESS=$address python -c 'import ray; ray.init(logging_level="ERROR"); print(len(ray.nodes()))' 2>/dev/null)
    if [ "${joined:-0}" -ge "${#nodes[@]}" ] || [ -n "$stopped" ]; then break; fi
    sleep 2
done
echo "Ray at $address with ${joined:-0} of ${#nodes[@]} nodes"

code=75 # nothing was begun
if [ -z "$stopped" ]; then
    RAY_ADDRESS=$address python jobs/tokenize_audio.py "$@" &
    line=$!
    [ -z "$stopped" ] || kill -TERM "$line" # it came before the trap knew whom to tell
    wait "$line"
    code=$?
    if kill -0 "$line" 2>/dev/null; then # a trap ended the first wait
        wait "$line"
        code=$?
    fi
fi
if [ "$code" -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
kill %1 %2 2>/dev/null
exit "$code"
