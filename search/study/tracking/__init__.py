"""Tracking with Weights & Biases: the driver's runs, and what makes them again from the record. Only this room imports wandb."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.study.tracking.session import chosen_mode, kept_run_id
from search.study.tracking.tracker import NullTracker, Tracker
from search.study.tracking.wandb_tracker import WandbTracker, warn
from spaces.study import StudySpec, WandbSpec

__all__ = ["NullTracker", "Tracker", "WandbTracker", "make_tracker"]


def make_tracker(spec: StudySpec, provenance: Mapping[str, Any]) -> Tracker:
    """The tracker that the study asks for. A study continued in the same output continues the same run."""
    wanted = spec.tracking.wandb
    if not isinstance(wanted, WandbSpec) or chosen_mode(wanted, has_key=True) == "disabled":
        return NullTracker()
    try:
        return WandbTracker(spec, kept_run_id(spec.output), provenance)
    except Exception as error:  # such as an output that cannot be written
        warn(error, spec)
        return NullTracker()
