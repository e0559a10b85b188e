"""Names of the columns of `compare`: facts of a run, rows of its history, figures of the summary.

They stand apart from `load.py` because `evaluate` names settings by them and should
not wait for pandas.
"""

from collections.abc import Iterable

from lightning_resnet.runs.status import COUNTS

NET_ARGS = "model.net.init_args."
SHORT = {  # config keys with a short column of their own, besides the arguments of the net
    "seed_everything": "seed",
    "model.net.class_path": "net",
    "model.optimizer.init_args.lr": "lr",
    "data.source.class_path": "source",
    "trainer.max_epochs": "epochs",
}
NUMBERS = [
    *("attempts", "seconds", "gpu_h", "began", "steps", "unreadable_lines", "input_size"),
    *COUNTS,
]
FACTS = [  # columns of `runs` that are not config
    *("run_id", "name", "path", "status", "error", *NUMBERS),
    *("git_sha", "dirty", "code", "torch", "lightning_resnet", "hardware", "about"),
]
HISTORY = [  # columns of `history` that come first
    *("run_id", "path", "kind", "step", "epoch", "attempt", "time", "gpu_h"),
    *("val/acc1", "train_eval/acc1"),
]
STATISTICS = (  # columns of the summary table; like FACTS, no argument of a net takes their names
    *("n", "val_err_final_mean", "val_err_final_std", "val_err_best_mean", "train_err_mean"),
    *("gap_points", "params", "macs", "seconds"),
)


def short_names(columns: Iterable[str]) -> dict[str, str]:
    """Return config key -> short column name, for `SHORT` and the arguments of the net."""
    names: dict[str, str] = {}
    keys = [column for column in columns if "." in column or column in SHORT]
    for key in sorted(keys, key=lambda key: key not in SHORT):
        name = SHORT.get(key, key.removeprefix(NET_ARGS))
        if "." not in name and name not in {*FACTS, *STATISTICS, *names.values()}:
            names[key] = name
    return names
