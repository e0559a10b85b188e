"""Titles for people of metrics and columns; files for programs keep the names."""

from typing import NamedTuple

SPLITS = {"val": "validation", "val_ema": "validation (EMA)", "test": "test"}
SPLITS |= {"train_eval": "training", "train": "training"}
HOW = {"train_eval": " (clean)", "train": " (as trained)"}
MEASURES = {"acc1": "error", "acc5": "top-5 error", "loss": "loss"}
NAMES = {
    "lr": "learning rate",
    "perf/images_per_s": "images per second",
    "perf/data_wait_frac": "time spent waiting for data, %",
    "curvature/largest": "largest eigenvalue of the Hessian",
    "curvature/limit": "2 / learning rate",
}
FAMILIES = {
    "grad_norm": "gradient norm",
    "response_std": "std of the response",
    "identity_distance": "distance from the identity",
    "branch_scale": "learned factor of F(x)",
}
COLUMNS = {
    "run_id": "run",
    "gpu_h": "GPU hours",
    "params": "parameters",
    "macs": "multiply-adds",
    "dirty": "uncommitted changes",
    "train_samples": "training images",
    "val_samples": "validation images",
    "input_size": "pixels",
    "seconds": "time, s",
    "about": "about",
    "lightning_resnet": "version of lightning_resnet",
    "torch": "version of torch",
    "shortcut": "shortcut",
    "lr": "learning rate",
}


class Title(NamedTuple):
    """Title of a metric, and what its values are.

    Attributes:
        text: what a chart or column says, with the unit.
        kind: error (the metric is an accuracy) | share (a fraction) | value.
    """

    text: str
    kind: str


def metric_title(name: str) -> Title:
    """Return the title of a metric of metrics.jsonl, such as `val/acc1`: validation error, %."""
    if name in NAMES:
        return Title(NAMES[name], "share" if name.endswith("_frac") else "value")
    split, _, measure = name.partition("/")
    if split in SPLITS and measure in MEASURES:
        is_error = measure.startswith("acc")
        percent = ", %" if is_error else ""
        kind = "error" if is_error else "value"
        how = HOW.get(split, "")
        return Title(f"{SPLITS[split]} {MEASURES[measure]}{how}{percent}", kind)
    if split in FAMILIES and measure:
        return Title(f"{FAMILIES[split]}, {measure}", "value")
    return Title(name, "value")


def column_title(name: str, short: str) -> str:
    """Return the title of a column of `Runs.runs`.

    Args:
        name: of the column.
        short: what people call a setting, `optimizer.weight_decay`.
    """
    return COLUMNS.get(name, short.replace("_", " ") if "." not in short else short)
