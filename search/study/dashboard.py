"""Optuna's own dashboard on a study's record (optional: optuna-dashboard): read alone, with our words where the record has JSON."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from search.record.record import open_storage
from search.results.students import architecture_in_words
from search.study.live import LOOPBACK, NOT_OURS, own_address
from search.study.output import records_of, spec_of
from spaces.errors import InputError
from spaces.trial import Measurement, TrialConfig


def _read(name: str) -> Callable[..., Any]:
    return lambda self, *arguments, **more: getattr(self.record, name)(*arguments, **more)


def _refused(name: str) -> Callable[..., Any]:
    def refused(*arguments: Any, **more: Any) -> None:
        raise StorageInternalError("the record of a study is changed by its runs alone")

    return refused


# Every method of a storage: what reads is asked of the record, what writes is refused, whatever a later Optuna adds.
METHODS = {name: (_read if name.startswith("get_") else _refused)(name) for name in BaseStorage.__abstractmethods__}


class ReadableStorage(type("ReadOnlyStorage", (BaseStorage,), METHODS)):  # type: ignore[misc]
    """A record that can be read and not changed, whose trials tell what they are in words and numbers: those a dashboard can
    show, sort by and plot."""

    def __init__(self, record: BaseStorage) -> None:
        self.record = record

    def get_all_trials(self, *arguments: Any, **more: Any) -> list[FrozenTrial]:
        return [_readable(trial) for trial in self.record.get_all_trials(*arguments, **more)]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return _readable(self.record.get_trial(trial_id))

    def get_all_studies(self) -> list[Any]:
        studies = copy.deepcopy(self.record.get_all_studies())
        for study in studies:
            study.user_attrs = _facts(study.user_attrs)
        return studies

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return _facts(self.record.get_study_user_attrs(study_id))


def _facts(kept: Mapping[str, str]) -> dict[str, Any]:
    """What the record keeps of the study that says something to people."""
    facts = {name: json.loads(value) for name, value in kept.items()}
    known = {reference["label"]: _short(reference["metrics"]) for reference in facts.get("references") or []}
    for name, words in (("num_rows", "rows"), ("stages", "seconds by stage")):
        if facts.get(name):
            known[words] = _short(facts[name])
    return known


def _readable(trial: FrozenTrial) -> FrozenTrial:
    attrs = trial.user_attrs
    if "config" not in attrs:
        return trial
    measured = [Measurement.model_validate_json(v) for n, v in sorted(attrs.items()) if n.startswith("measurement:")]
    known: dict[str, Any] = {
        "state": attrs["state"],
        "student": architecture_in_words(TrialConfig.model_validate_json(attrs["config"])),
        "parameters": attrs["num_parameters"],
    }
    known |= {("recipe" if name == "start" else name): v for name, v in json.loads(attrs.get("labels", "{}")).items()}
    for measurement in measured:
        after = "" if measurement.share >= 1 else f" after {measurement.share:.0%}"
        known |= {f"{name}{after}": round(value, 6) for name, value in measurement.metrics.items()}
    known["training seconds"] = round(sum(each.cost.get("train_seconds", 0.0) for each in measured), 1)
    known["training tokens"] = round(sum(each.cost.get("tokens", 0.0) for each in measured))
    if attrs.get("error"):
        known["error"] = attrs["error"]
    shown = copy.copy(trial)
    shown.user_attrs = known
    return shown


def _short(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {round(each, 4) if isinstance(each, float) else each}" for name, each in found.items())


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""


def dashboard_server(folder: Path, port: int) -> WSGIServer:
    """Bound to loopback, not yet serving; port 0 takes a free one. Raises InputError where optuna-dashboard is not installed or the
    port is taken, StudyError where there is no record."""
    spec = spec_of(folder)
    for record in records_of(spec, folder):
        record.close()
    try:
        from optuna_dashboard import wsgi
    except ImportError:
        raise InputError.of(
            "dashboard", "optuna-dashboard is not installed; it comes with pip install 'distilsearch[dashboard]'"
        ) from None
    app = wsgi(ReadableStorage(open_storage(spec.storage, folder)))

    def own_address_alone(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if not own_address(environ.get("HTTP_HOST")):
            start("403 Forbidden", [("Content-Type", "text/plain")])
            return [NOT_OURS.encode()]
        return app(environ, start)

    try:
        return make_server(LOOPBACK, port, own_address_alone, server_class=_Server, handler_class=_Quiet)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError.of("--port", f"{port} cannot be used: {reason}; name another, or leave it out") from None
