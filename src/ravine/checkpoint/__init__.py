"""Run folders: a run on disk, to look at and to go on with.

A folder holds `config.json` (how the run was made), `history.parquet`, `summary.json` and `state.npz` (the whole state
of the loop). Every file is replaced atomically and the state comes last, so that a run killed at any moment leaves a
folder that loads.
"""

from ravine.checkpoint.files import CONFIG, FORMAT, HISTORY, STATE, SUMMARY, RunFolderError, prepare
from ravine.checkpoint.folder import load, read_config, read_history, read_summary, read_theta, save
from ravine.checkpoint.recipe import (
    describe_key,
    describe_phases,
    describe_plan,
    describe_weights,
    restore_key,
    restore_phases,
    restore_problem,
    restore_weights,
)

__all__ = [
    "CONFIG",
    "FORMAT",
    "HISTORY",
    "STATE",
    "SUMMARY",
    "RunFolderError",
    "describe_key",
    "describe_phases",
    "describe_plan",
    "describe_weights",
    "load",
    "prepare",
    "read_config",
    "read_history",
    "read_summary",
    "read_theta",
    "restore_key",
    "restore_phases",
    "restore_problem",
    "restore_weights",
    "save",
]
