#!/bin/bash
#SBATCH --mail-type=END,FAIL
#SBATCH --reservation=nlp
#SBATCH --job-name=reviews-cf820a
#SBATCH --partition=gpu
#SBATCH --account=nlp-42
#SBATCH --qos=high
#SBATCH --constraint='ib&nvme'
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=a100:4
#SBATCH --time=1-12
#SBATCH --signal=B:TERM@180
#SBATCH --open-mode=append
#SBATCH --output=/shared/team/runs/.jobs/reviews-cf820a/log-%j.txt
#SBATCH --requeue

folder=/shared/team/runs/.jobs/reviews-cf820a
python=python
temp=/tmp/ray-$SLURM_JOB_ID-$(od -An -vN4 -tx1 /dev/urandom | tr -d ' \n')
words=$folder/ray-$SLURM_JOB_ID.txt # what Ray says as it starts
told= child= steps=()

told_to_end() { # a TERM: the time is up soon, a preemption, or somebody's
  told=1
  [ -z "$child" ] || kill -TERM "$child" 2> /dev/null
}
trap told_to_end TERM

attend() { # runs a command that hears of a TERM, and waits for it; a trap cuts `wait` short
  [ -z "$told" ] || return 143
  "$@" &
  child=$!
  [ -z "$told" ] || kill -TERM "$child" 2> /dev/null
  wait "$child"
  while kill -0 "$child" 2> /dev/null; do wait "$child"; done
  wait "$child"
}

finish() { # ends what was started here, and nothing else
  local status=$1
  child=
  local index step waited=0
  for index in "${!steps[@]}"; do scancel --signal=TERM "$SLURM_JOB_ID.$index" 2> /dev/null; done
  for step in "${steps[@]}"; do # an srun that is told itself kills its step at once
    while kill -0 "$step" 2> /dev/null && ((waited++ < 15 * 10)); do sleep 0.1; done
    kill -TERM "$step" 2> /dev/null
    wait "$step"
  done
  if [ -n "$told" ] && [ "$status" != 0 ] && [ "$status" != 2 ]; then
    # After an scancel the job does not run any more; `distilsearch stop` has forbidden to queue it again.
    case "$(scontrol --oneliner show job "$SLURM_JOB_ID" 2> /dev/null)" in
      *" JobState=RUNNING "*" Requeue=1 "*)
        if scontrol requeue "$SLURM_JOB_ID"; then
          echo "job $SLURM_JOB_ID: queued again; the study will continue from its record"
          exit "$status"
        fi ;;
    esac
  fi
  echo "{\"status\": $status, \"at\": $(date +%s)}" > "$folder/ended-$SLURM_JOB_ID.json"
  exit "$status"
}

fail() {
  echo "job $SLURM_JOB_ID: $*" >&2
  tail -n 20 "$words" >&2 2> /dev/null
  finish 1
}

ray_start() { # NODES WHICH OPTIONS: Ray on so many of the nodes, until the step is ended
  srun --export=ALL --label --kill-on-bad-exit=0 --nodes="$1" --ntasks="$1" --ntasks-per-node=1 "$2" \
    --cpus-per-task=32 --gpus-per-node=a100:4 \
    bash -c 'trap : TERM; mkdir -p -m 700 "$0" && "$@"; status=$?; rm -rf "$0"; exit $status' "$temp" \
    "$python" -m ray.scripts.scripts start --block --temp-dir="$temp/r" --dashboard-agent-listen-port=0 \
    --min-worker-port=0 --max-worker-port=0 \
    --num-cpus=32 --num-gpus=4 "${@:3}" < /dev/null >> "$words" 2>&1 &
  steps+=($!)
}

free_port() {
  "$python" -c 'import socket; each = socket.socket(); each.bind(("", 0)); print(each.getsockname()[1])'
}

rm -f "$folder/ended-$SLURM_JOB_ID.json"
[ "${SLURM_RESTART_COUNT:-0}" = 0 ] || echo "job $SLURM_JOB_ID: begun again, for the $SLURM_RESTART_COUNT. time"
module purge
module load cuda/12.8
source /shared/team/venv/bin/activate
command -v "$python" > /dev/null || fail "there is no $python on $SLURMD_NODENAME; write python or setup in the profile"

# Whoever can reach the nodes could run code in a Ray without a token: this one is the job's own, and lies in no file.
unset RAY_ADDRESS RAY_AUTH_TOKEN_PATH
RAY_AUTH_TOKEN=$(od -An -vN32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 # nothing runs any more when a node is told to end
export NCCL_SOCKET_IFNAME=ib0
export HF_HOME='/shared/team/hugging face'
attend "$python" -m cluster.arrive --compare "$folder" || finish $? # before anything runs
ray_start 1 --nodelist="$SLURMD_NODENAME" --head --port=0 --include-dashboard=false --ray-client-server-port="$(free_port)"
for ((waited = 0; waited < 120; waited++)); do
  address=$(cat "$temp/r/ray_current_cluster" 2> /dev/null)
  [ -z "$address" ] && [ -z "$told" ] && kill -0 "${steps[0]}" 2> /dev/null || break
  sleep 1
done
[ -z "$told" ] || finish 143
[ -n "$address" ] || fail "Ray did not start on $SLURMD_NODENAME within 120 s; its last words:"
export RAY_ADDRESS=$address
ray_start 3 --exclude="$SLURMD_NODENAME" --address="$address"
attend "$python" -m cluster.slurm "$address" 4 300
status=$?
[ -z "$told" ] || finish 143
[ "$status" = 0 ] || fail "Ray is not on all 4 nodes; its last words:"

attend "$python" -m cluster.arrive "$folder"
finish $?
