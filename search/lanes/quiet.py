"""Starting Ray, or joining the one that is there, without its chatter."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
import ray._private.node

from spaces.errors import StudyError

# Read by the driver, or by the processes that Ray starts for us; each is left alone where the user has set it.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # without a token (token.py) ray.init() may write one that a later `ray start` demands
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a study's paths are relative to where the command was given
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is the driver's to handle
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # Tune's own snapshots are not used
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_WARN_THRESHOLD_S": "1000000",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon Train sees that a worker ended
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one more process per lane; lanes survive preemption anyway
    "MALLOC_ARENA_MAX": "1",  # else a lane's thread has a heap that keeps no tensor above 64 MB: 5 % of a step
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "2",  # 30 s are waited for a hung rank otherwise
}
START_TRIES = 4
STAY_SECONDS = 5.0  # that a process may outlive its Ray
LOGGERS = ("ray", "ray.tune", "ray.train", "ray.data")


def quieten() -> None:
    """Set the environment and the log levels; before Ray starts, so that its processes inherit them."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"ray\..*")


def start_ray(*, num_cpus: int | None = None, num_gpus: int | None = None) -> dict[str, Any]:
    """Join the cluster that RAY_ADDRESS names, or start one here that ends with this process.

    Returns the cluster's resources. `num_cpus` and `num_gpus` are for a local one; None lets Ray count.
    """
    with _told_to_end_later():
        _start_or_join(num_cpus, num_gpus)
    # Ray prints, whatever the log level, that a worker died. The lanes see to that themselves, and the message would
    # tear the display. To go when Ray lets one choose.
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    return dict(ray.cluster_resources())


def stop_ray() -> None:
    """End the Ray that was started here with all that it started, or leave the one that was joined.

    A worker that is about to end by itself when its raylet ends can hang in both, for ever.
    """
    import psutil  # which comes with Ray

    node = ray._private.worker._global_node
    raylets = node.all_processes.get("raylet", []) if node is not None else []
    theirs = list[psutil.Process]()
    for raylet in raylets:
        with suppress(psutil.Error):
            theirs += psutil.Process(raylet.process.pid).children(recursive=True)
    ray.shutdown()
    _, left = psutil.wait_procs(theirs, timeout=STAY_SECONDS)
    for process in left:
        with suppress(psutil.Error):
            process.kill()


@contextmanager
def _told_to_end_later() -> Iterator[None]:
    """Told to end (`kill`, `timeout`, a scheduler), Ray would print a stack and leave its processes behind, or go on as if nothing
    had been said where that comes while it starts. So it sets no handler of its own; what comes meanwhile is heard afterwards,
    and later is a Ctrl-C, but for a program that has a handler."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, told = signal.getsignal(signal.SIGTERM), list[int]()
    theirs = ray._private.utils.set_sigterm_handler
    ray._private.utils.set_sigterm_handler = lambda handler: None
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    try:
        yield
    finally:
        ray._private.utils.set_sigterm_handler = theirs
        signal.signal(signal.SIGTERM, before if callable(before) else signal.default_int_handler)
    if told:
        signal.alarm(0)  # set by Ray's own handler, which is there from within ray.init() on: it would abort in 3 s
        stop_ray()
        if callable(before):
            before(signal.SIGTERM, None)
        else:
            raise KeyboardInterrupt


def _start_or_join(num_cpus: int | None, num_gpus: int | None) -> None:
    if os.environ.get("RAY_ADDRESS"):
        # Whether the cluster asks for a token is its own affair, and its processes do not inherit our environment.
        mode = os.environ.get("RAY_AUTH_MODE")
        quieten()
        if mode is None:
            del os.environ["RAY_AUTH_MODE"]
        # What the job itself was given, by whoever submitted it, is merged with this; else Ray refuses where both name one.
        os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
        quiet = {name: os.environ[name] for name in ENVIRONMENT if name != "RAY_AUTH_MODE"}
        ray.init(logging_level=logging.ERROR, log_to_driver=False, runtime_env={"env_vars": quiet})
    else:
        quieten()
        # All that listens does so on the loopback address. Ray has this switch for laptops with a firewall (hence the
        # name), and reads it when it is imported; the variable is for the processes that it starts.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
        # When this process is killed, Ray's agents try that long to tell a head that is gone before they end, 60 s
        # otherwise.
        os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "10")
        # Nobody asks this Ray what its tasks did, and its head would keep 38 kB of each of our trials.
        os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
        _start_here(num_cpus, num_gpus)


def _start_here(num_cpus: int | None, num_gpus: int | None) -> None:
    """Ray gives its first node 30 s to start, which a machine that is busy with other things can miss: try again."""
    for left in reversed(range(START_TRIES)):
        try:
            with _bare_node():
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    num_gpus=num_gpus,
                    include_dashboard=False,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                )
            return
        except Exception as error:
            stop_ray()
            if not left:
                first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise StudyError(
                    f"Ray did not start in {START_TRIES} tries: {first} Is the machine overloaded, or out of memory?"
                ) from error


class BareNode(ray._private.node.Node):
    """Ray's first node without three processes that nothing here asks: the dashboard's server, which starts without its pages too,
    the autoscaler, and the one that carries the workers' output to a driver that wants none. Each imports most of Ray."""

    def start_api_server(self, *, include_dashboard: bool | None, raise_on_failure: bool) -> None:
        return None

    def start_monitor(self) -> None:
        return None

    def start_log_monitor(self) -> None:
        return None


@contextmanager
def _bare_node() -> Iterator[None]:
    theirs = ray._private.node.Node
    ray._private.node.Node = BareNode
    try:
        yield
    finally:
        ray._private.node.Node = theirs
