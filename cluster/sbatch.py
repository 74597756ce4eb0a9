"""The batch script that starts Ray over an allocation of Slurm's: a pure function of the job and the profile."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.job import Job
from cluster.profile import SlurmProfile

HEAD_SECONDS = 120  # that Ray may take on the first node
NODES_SECONDS = 300  # and on the others
STEP_SECONDS = 15  # that Ray may take to end
OBJECTS_SHARE = 0.3  # of a node's memory: Ray's own share for its object store
BYTES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# Ports that are 0 are whichever are free, so that two jobs on one node do not meet. Its files lie where only this user looks.
RAY = r""""$python" -m ray.scripts.scripts start --block --temp-dir="$temp/r" --dashboard-agent-listen-port=0 \
    --min-worker-port=0 --max-worker-port=0"""
HEAD = '--head --port=0 --include-dashboard=false --ray-client-server-port="$(free_port)"'  # of which 0 is not allowed

SCRIPT = r"""
folder={folder}
python={python}
temp=/tmp/ray-$SLURM_JOB_ID-$(od -An -vN4 -tx1 /dev/urandom | tr -d ' \n')
words=$folder/ray-$SLURM_JOB_ID.txt # what Ray says as it starts
told= child= steps=()

told_to_end() {{ # a TERM: the time is up soon, a preemption, or somebody's
  told=1
  [ -z "$child" ] || kill -TERM "$child" 2> /dev/null
}}
trap told_to_end TERM

attend() {{ # runs a command that hears of a TERM, and waits for it; a trap cuts `wait` short
  [ -z "$told" ] || return 143
  "$@" &
  child=$!
  [ -z "$told" ] || kill -TERM "$child" 2> /dev/null
  wait "$child"
  while kill -0 "$child" 2> /dev/null; do wait "$child"; done
  wait "$child"
}}

finish() {{ # ends what was started here, and nothing else
  local status=$1
  child=
  local index step waited=0
  for index in "${{!steps[@]}}"; do scancel --signal=TERM "$SLURM_JOB_ID.$index" 2> /dev/null; done
  for step in "${{steps[@]}}"; do # an srun that is told itself kills its step at once
    while kill -0 "$step" 2> /dev/null && ((waited++ < {step_seconds} * 10)); do sleep 0.1; done
    kill -TERM "$step" 2> /dev/null
    wait "$step"
  done
  if [ -n "$told" ] && [ "$status" != 0 ] && [ "$status" != {bad_input} ]; then
    # After an scancel the job does not run any more; `distilsearch stop` has forbidden to queue it again.
    case "$(scontrol --oneliner show job "$SLURM_JOB_ID" 2> /dev/null)" in
      *" JobState=RUNNING "*" Requeue=1 "*)
        if scontrol requeue "$SLURM_JOB_ID"; then
          echo "job $SLURM_JOB_ID: queued again; the study will continue from its record"
          exit "$status"
        fi ;;
    esac
  fi
  echo "{{\"status\": $status, \"at\": $(date +%s)}}" > "$folder/ended-$SLURM_JOB_ID.json"
  exit "$status"
}}

fail() {{
  echo "job $SLURM_JOB_ID: $*" >&2
  tail -n 20 "$words" >&2 2> /dev/null
  finish 1
}}

ray_start() {{ # NODES WHICH OPTIONS: Ray on so many of the nodes, until the step is ended
  srun --export=ALL --label --kill-on-bad-exit=0 --nodes="$1" --ntasks="$1" --ntasks-per-node=1 "$2" \
    {step} \
    bash -c 'trap : TERM; mkdir -p -m 700 "$0" && "$@"; status=$?; rm -rf "$0"; exit $status' "$temp" \
    {ray} \
    {resources} "${{@:3}}" < /dev/null >> "$words" 2>&1 &
  steps+=($!)
}}

free_port() {{
  "$python" -c 'import socket; each = socket.socket(); each.bind(("", 0)); print(each.getsockname()[1])'
}}

rm -f "$folder/ended-$SLURM_JOB_ID.json"
[ "${{SLURM_RESTART_COUNT:-0}}" = 0 ] || echo "job $SLURM_JOB_ID: begun again, for the $SLURM_RESTART_COUNT. time"
{setup}
command -v "$python" > /dev/null || fail "there is no $python on $SLURMD_NODENAME; write python or setup in the profile"

# Whoever can reach the nodes could run code in a Ray without a token: this one is the job's own, and lies in no file.
unset RAY_ADDRESS RAY_AUTH_TOKEN_PATH
RAY_AUTH_TOKEN=$(od -An -vN32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 # nothing runs any more when a node is told to end
{environment}
{compare}
ray_start 1 --nodelist="$SLURMD_NODENAME" {head}
for ((waited = 0; waited < {head_seconds}; waited++)); do
  address=$(cat "$temp/r/ray_current_cluster" 2> /dev/null)
  [ -z "$address" ] && [ -z "$told" ] && kill -0 "${{steps[0]}}" 2> /dev/null || break
  sleep 1
done
[ -z "$told" ] || finish 143
[ -n "$address" ] || fail "Ray did not start on $SLURMD_NODENAME within {head_seconds} s; its last words:"
export RAY_ADDRESS=$address
{others}
attend "$python" -m cluster.arrive "$folder"
finish $?
"""

COMPARE = r"""attend "$python" -m cluster.arrive --compare "$folder" || finish $? # before anything runs"""

OTHERS = r"""ray_start {others} --exclude="$SLURMD_NODENAME" --address="$address"
attend "$python" -m cluster.slurm "$address" {nodes} {nodes_seconds}
status=$?
[ -z "$told" ] || finish 143
[ "$status" = 0 ] || fail "Ray is not on all {nodes} nodes; its last words:"
"""


def batch_script(job: Job, profile: SlurmProfile, folder: Path) -> str:
    """What sbatch takes. The job's files lie in `folder`, which all nodes see."""
    others = profile.nodes - 1
    made = SCRIPT.format(
        folder=shlex.quote(str(folder)),
        python=shlex.quote(profile.python),
        bad_input=2,
        step=" ".join(_step_options(profile)),
        ray=RAY,
        resources=" ".join(_ray_resources(profile)),
        setup="\n".join(profile.setup),
        environment="\n".join(f"export {name}={shlex.quote(text)}" for name, text in profile.environment.items()),
        compare=COMPARE if profile.versions == "refuse" else "",
        head=HEAD,
        head_seconds=HEAD_SECONDS,
        step_seconds=STEP_SECONDS,
        others=OTHERS.format(others=others, nodes=profile.nodes, nodes_seconds=NODES_SECONDS) if others else "",
    )
    lines = [f"#SBATCH {option}" for option in _options(job, profile, folder)]
    return "\n".join(["#!/bin/bash", *lines, re.sub(r"\n{3,}", "\n\n", made)])


def _options(job: Job, profile: SlurmProfile, folder: Path) -> Iterator[str]:
    """sbatch's. The later of two counts: what the profile has beside its keys does not change those."""
    yield from profile.extra
    given: dict[str, Any] = {
        "job-name": job.id,
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "nodes": profile.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": profile.cpus_per_node,
        "gpus-per-node": _gpus(profile),
        "mem": profile.memory_per_node,
        "time": profile.time,
        "signal": f"B:TERM@{profile.grace_seconds}" if profile.grace_seconds else None,
        "open-mode": "append",
        "output": f"{str(folder).replace('%', '%%')}/log-%j.txt",
    }
    yield from (f"--{name}={shlex.quote(str(value))}" for name, value in given.items() if value is not None)
    yield "--requeue" if profile.requeue else "--no-requeue"


def _step_options(profile: SlurmProfile) -> Iterator[str]:
    yield f"--cpus-per-task={profile.cpus_per_node}"  # since 22.05 steps do not inherit it
    if gpus := _gpus(profile):
        yield f"--gpus-per-node={gpus}"


def _gpus(profile: SlurmProfile) -> str | None:
    if not profile.gpus_per_node:
        return None
    return f"{profile.gpu_type}:{profile.gpus_per_node}" if profile.gpu_type else str(profile.gpus_per_node)


def _ray_resources(profile: SlurmProfile) -> Iterator[str]:
    """A node's: Ray by itself would count the whole machine."""
    yield f"--num-cpus={profile.cpus_per_node}"
    yield f"--num-gpus={profile.gpus_per_node}"
    if text := profile.memory_per_node:
        memory = int(text.rstrip("KMGT")) * BYTES[text[-1] if text[-1] in BYTES else "M"]
        objects = int(OBJECTS_SHARE * memory)
        yield f"--memory={memory - objects}"
        yield f"--object-store-memory={objects}"
