"""Loggers, profilers and observing callbacks do in `fit` what they do in a stock Trainer, or are
refused with the cure.

Each item runs twice on the same task, data and number of batches: by the command line, and by
Lightning's own Trainer with its own loops. What a logger gets from callbacks, what callbacks see
and how often, and which files are written must be the same; our own metrics come on top.
"""

import csv
import json
import logging
import re
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from helpers.command_line import TINY
from helpers.run_dir import only_run
from pytorch_lightning.callbacks import (
    Callback,
    DeviceStatsMonitor,
    LearningRateMonitor,
    ThroughputMonitor,
)
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.profilers import SimpleProfiler

from lightning_resnet.engine.observers import TRAINING
from lightning_resnet.weights.trained import build_alone

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
BATCHES = 5
LIMITS = {"limit_train_batches": BATCHES, "limit_val_batches": 2, "log_every_n_steps": 2}
SHORT = [
    *TINY,
    "--trainer.max_epochs=2",
    *(f"--trainer.{key}={value}" for key, value in LIMITS.items()),
]
ROWS = "--trainer.logger=trials.test_lightning_observers.Rows"
HERE = "--trainer.callbacks+=trials.test_lightning_observers."


class Rows(Logger):
    """Keeps what it is given."""

    rows: list = []
    ended: list = []

    @property
    def name(self):
        return "rows"

    @property
    def version(self):
        return 0

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, params, *args, **kwargs):
        pass

    def finalize(self, status):
        self.ended.append(status)


class Seen(Callback):
    """Writes down, in each hook, what callbacks read of the trainer."""

    seen: list = []

    def _see(self, hook, trainer):
        loop = trainer.fit_loop.epoch_loop
        progress = loop.batch_progress
        stage = trainer.state.stage
        self.seen.append(
            {
                "hook": hook,
                "step": trainer.global_step,
                "epoch": trainer.current_epoch,
                "last": trainer.is_last_batch,
                "batch_idx": trainer.fit_loop.batch_idx,
                "total_batch_idx": trainer.fit_loop.total_batch_idx,
                "current": vars(progress.current).copy(),
                "total": vars(progress.total).copy(),
                "epochs": vars(trainer.fit_loop.epoch_progress.current).copy(),
                "stepped": loop._batches_that_stepped,
                "accumulating": trainer.fit_loop._should_accumulate(),
                "should_log": trainer._logger_connector.should_update_logs,
                "stage": stage and stage.value,
                "batches": trainer.num_training_batches,
                "val": {
                    k: round(v.item(), 5)
                    for k, v in trainer.callback_metrics.items()
                    if k.startswith("val/")
                },
                "logged": sorted(k for k in trainer.logged_metrics if k.startswith("val/")),
            }
        )

    def on_validation_epoch_end(self, trainer, pl_module):
        self._see("on_validation_epoch_end", trainer)
        if type(trainer.fit_loop).__module__.startswith("pytorch_lightning"):
            self.seen[-1]["val"] = self.seen[-1]["logged"] = (
                None  # there the task's own hook, which comes next, makes the metrics
            )


def _watch(name):
    def hook(self, trainer, *args, **kwargs):
        self._see(name, trainer)

    return hook


WATCHED = [
    f"on_{name}"
    for name in (
        *(
            "fit_start",
            "fit_end",
            "train_start",
            "train_end",
            "train_epoch_start",
            "train_epoch_end",
        ),
        *(
            "train_batch_start",
            "train_batch_end",
            "before_backward",
            "after_backward",
            "before_optimizer_step",
        ),
        *("before_zero_grad", "validation_start", "validation_end", "validation_epoch_start"),
        *("validation_batch_start", "validation_batch_end"),
    )
]
for _name in WATCHED:
    setattr(Seen, _name, _watch(_name))


class Logs(Callback):
    """Logs in each hook that may, in all the ways there are."""

    bar: list = []

    def on_train_start(self, trainer, pl_module):
        self.log("own/start", 3.0)

    def on_train_epoch_start(self, trainer, pl_module):
        self.log("own/epoch_start", float(trainer.current_epoch))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.log("own/batch_start", float(batch_idx))

    def on_after_backward(self, trainer, pl_module):
        self.log("own/after_backward", float(trainer.global_step), on_step=True, on_epoch=True)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.log("own/both", float(trainer.global_step), on_step=True, on_epoch=True, prog_bar=True)
        self.log("own/max", float(batch_idx), on_step=False, on_epoch=True, reduce_fx="max")
        self.log("own/quiet", 1.0, logger=False)
        self.bar.append(
            {k: v for k, v in trainer.progress_bar_metrics.items() if k.startswith("own/")}
        )

    def on_validation_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ):
        self.log("own/val", float(batch_idx), batch_size=2)

    def on_validation_epoch_end(self, trainer, pl_module):
        self.log("own/val_end", float(trainer.global_step))

    def on_train_epoch_end(self, trainer, pl_module):
        self.log("own/epoch_end", float(trainer.global_step))
        metrics = {
            k: round(float(v), 4)
            for k, v in trainer.callback_metrics.items()
            if k.startswith("own/")
        }
        self.bar.append(dict(sorted(metrics.items())))


@pytest.fixture(autouse=True)
def forgotten():
    for kept in (Rows.rows, Rows.ended, Seen.seen, Logs.bar):
        kept.clear()


def stock(callbacks=(), logger=False, flags=(), **options):
    """The same training in Lightning's own Trainer."""
    made = build_alone([*TINY, *flags])
    options = {
        "max_epochs": 2,
        "num_sanity_val_steps": 0,
        "enable_checkpointing": False,
        **LIMITS,
        **options,
    }
    trainer = pl.Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=logger,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(made.task, datamodule=made.data)
    return trainer, made.task


def ran(cli, *args):
    """Run the command line; return what it printed."""
    code, out, err = cli("fit", *SHORT, *args)
    assert code == 0, err
    return out


def ours_apart(rows, prefix="own/"):
    """Rows in order, with the metrics of this prefix only; others' are left out."""
    kept = [
        (
            step,
            {
                k: round(float(v), 4)
                for k, v in row.items()
                if k.startswith(prefix) and k not in TRAINING
            },
        )
        for step, row in rows
    ]
    return [(step, dict(sorted(row.items()))) for step, row in kept if row]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 2, "limit_train_batches": 6},
        {"max_steps": 10, "max_epochs": -1},
        {"check_val_every_n_epoch": 2},
    ],
    ids=str,
)
def test_what_callbacks_see_and_how_often(cli, options):
    ran(cli, f"{HERE}Seen", *(f"--trainer.{key}={value}" for key, value in options.items()))
    ours = [*Seen.seen]
    Seen.seen.clear()
    stock([Seen()], **options)
    theirs = Seen.seen
    assert [row["hook"] for row in ours] == [row["hook"] for row in theirs]
    for mine, its in zip(ours, theirs, strict=True):
        if its["val"] is None:
            its["val"] = mine["val"]
            its["logged"] = mine["logged"]
            assert mine["val"]["val/loss"]
        if mine["hook"] in ("on_fit_start", "on_fit_end", "on_train_end"):
            mine, its = ({k: row[k] for k in ("hook", "step", "epoch")} for row in (mine, its))
        assert mine == its


def test_self_log_of_callbacks(cli):
    ran(cli, ROWS, f"{HERE}Logs")
    ours, bars = ours_apart(Rows.rows), [*Logs.bar]
    Rows.rows.clear()
    Logs.bar.clear()
    stock([Logs()], Rows())
    assert ours == ours_apart(Rows.rows)
    assert bars == Logs.bar
    assert any("own/both_step" in row for _, row in ours) and any(
        "own/max" in row for _, row in ours
    )


def test_every_metric_reaches_every_logger_at_its_optimizer_step(cli):
    ran(cli, ROWS)
    recorded = [
        json.loads(line) for line in (only_run() / "metrics.jsonl").read_text().splitlines()
    ]
    wanted = [
        (row["step"], {k: v for k, v in row.items() if "/" in k or k in ("lr", "epoch")})
        for row in recorded
    ]
    assert Rows.rows == wanted
    assert [step for step, _ in wanted] == [2, 4, 5, 5, 6, 8, 10, 10]
    assert {"train/loss", "lr", "perf/images_per_s", "val/acc1", "train_eval/loss"} <= {
        k for _, row in wanted for k in row
    }
    assert Rows.ended == ["success"]


def test_a_stock_trainer_logs_the_task_under_our_names(cli):
    ran(cli, ROWS)
    ours = {step: row for step, row in Rows.rows if "val/loss" in row}
    train = {step: row["train/loss"] for step, row in Rows.rows if "train/loss" in row}
    Rows.rows.clear()
    trainer, task = stock(logger=Rows(), num_sanity_val_steps=2)
    theirs = {
        step + 1: row for step, row in Rows.rows if "val/loss" in row
    }  # Lightning counts steps from 0
    assert theirs.keys() == ours.keys()
    for step, row in ours.items():
        for name in ("val/loss", "val/acc1", "train_eval/acc1"):
            assert theirs[step][name] == pytest.approx(row[name])
    logged = {step + 1: row["train/loss"] for step, row in Rows.rows if "train/loss" in row}
    assert logged == pytest.approx(train)
    assert {"val/acc1", "train/loss", "train/acc1", "lr"} <= trainer.callback_metrics.keys()
    assert trainer.callback_metrics["val/acc1"] == pytest.approx(task.metrics["val/acc1"])


def batch_size(batch):
    """Return the batch size for ThroughputMonitor."""
    return len(batch[0])


@pytest.mark.parametrize(
    ("flags", "make", "prefix"),
    [
        (["LearningRateMonitor"], LearningRateMonitor, "lr-"),
        (
            ["LearningRateMonitor", "--trainer.callbacks.logging_interval=step"],
            lambda: LearningRateMonitor("step"),
            "lr-",
        ),
        (
            ["LearningRateMonitor", "--trainer.callbacks.logging_interval=epoch"],
            lambda: LearningRateMonitor("epoch"),
            "lr-",
        ),
        (
            ["LearningRateMonitor", "--trainer.callbacks.log_momentum=true"],
            lambda: LearningRateMonitor(log_momentum=True),
            "lr-",
        ),
        (["DeviceStatsMonitor"], DeviceStatsMonitor, "DeviceStatsMonitor"),
        (
            [
                "ThroughputMonitor",
                "--trainer.callbacks.batch_size_fn=trials.test_lightning_observers.batch_size",
            ],
            lambda: ThroughputMonitor(batch_size),
            ("train/", "validate/"),
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_monitors_write_the_rows_of_a_stock_trainer(cli, flags, make, prefix):
    ran(cli, ROWS, f"--trainer.callbacks+={flags[0]}", *flags[1:], "--model.schedule=Linear")
    ours = ours_apart(Rows.rows, prefix)
    Rows.rows.clear()
    stock([make()], Rows(), flags=["--model.schedule=Linear"])
    theirs = ours_apart(Rows.rows, prefix)
    if prefix == "lr-":
        assert ours == theirs
        assert len({tuple(row.values()) for _, row in ours}) > 1
    else:  # times and loads differ
        assert [(step, sorted(row)) for step, row in ours] == [
            (step, sorted(row)) for step, row in theirs
        ]
    assert ours


def test_csv_logger_in_the_run_directory_and_as_default(cli):
    ran(cli, "--trainer.logger=CSVLogger")
    run = only_run()
    (file,) = run.rglob("metrics.csv")
    assert file == run / "lightning_logs/version_0/metrics.csv"
    rows = list(csv.DictReader(file.open()))
    recorded = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [int(row["step"]) for row in rows] == [row["step"] for row in recorded]
    for row, recorded_row in zip(rows, recorded, strict=True):
        for name in (k for k in recorded_row if "/" in k):
            assert float(row[name]) == pytest.approx(recorded_row[name])


def test_several_loggers_and_a_folder_of_the_users(cli):
    own = "{class_path: CSVLogger, init_args: {save_dir: mine, name: x, version: 3}}"
    rows = "{class_path: trials.test_lightning_observers.Rows}"
    ran(cli, f"--trainer.logger=[{own}, {rows}]")
    assert Path("mine/x/version_3/metrics.csv").exists() and Rows.rows
    assert not list(only_run().rglob("metrics.csv"))


def test_a_continued_run_logs_no_step_twice(cli):
    flags = ["--trainer.logger=CSVLogger", "--trainer.log_every_n_steps=1"]
    code, _, err = cli("fit", *SHORT, *flags, f"{HERE}Dies")
    assert code == 143, err
    ran(cli, *flags, f"{HERE}Dies")
    (file,) = only_run().rglob("metrics.csv")
    rows = [(int(row["step"]), bool(row["val/loss"])) for row in csv.DictReader(file.open())]
    assert rows == [(1, False), (2, False), (3, False), (4, False), (5, False), (5, True)] + [
        *[(step, False) for step in (6, 7, 8, 9, 10)],
        (10, True),
    ]


class Dies(Callback):
    """Asks the first attempt to end, in mid-epoch."""

    def on_train_batch_end(self, trainer, *args):
        import os
        import signal

        if trainer.global_step == 7 and not Path("died").exists():
            Path("died").touch()
            os.kill(os.getpid(), signal.SIGTERM)


def test_profilers_see_the_training(cli, caplog):
    caplog.set_level(logging.INFO, "pytorch_lightning.profilers")
    ran(cli, "--trainer.profiler=simple")
    assert "Profiler Report" in caplog.text and "run_training_batch" in caplog.text
    code, _, err = cli(
        "fit",
        *SHORT,
        "--run.new",
        "--trainer.profiler=SimpleProfiler",
        "--trainer.profiler.filename=p",
    )
    assert code == 0, err
    (file,) = Path("runs").rglob("fit-p.txt")
    profiler = SimpleProfiler()
    stock(profiler=profiler)
    theirs = {name: len(times) for name, times in profiler.recorded_durations.items()}
    ours = {
        name: int(calls)
        for name, calls in re.findall(r"\|  (\S+)\s+\|[^|]+\|  (\d+)\s+\|", file.read_text())
    }
    copies = (
        "batch_to_device",
        "batch_transfer",
        "transfer_batch",
    )  # ours copies ahead, while a step computes
    loops = {"[_EvaluationLoop].val_next": "[EvaluationLoop].val_next"}
    differ = {name: (ours.get(loops.get(name, name)), calls) for name, calls in theirs.items()}
    differ = {name: pair for name, pair in differ.items() if pair[0] != pair[1]}
    assert not [name for name in differ if not any(copy in name for copy in copies)], differ
    assert ours["[Strategy]SingleDeviceStrategy.backward"] == 2 * BATCHES


@pytest.mark.parametrize("profiler", ["advanced", "pytorch"])
def test_profilers_leave_weights_alone(cli, profiler, caplog):
    ran(cli)
    weights = torch.load(only_run() / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    caplog.set_level(logging.INFO, "pytorch_lightning.profilers")
    code, _, err = cli("fit", *SHORT, "--run.new", f"--trainer.profiler={profiler}")
    assert code == 0, err
    (again,) = Path("runs/digits").glob("*-2")
    profiled = torch.load(again / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(weights[name], profiled[name]) for name in weights)
    assert "training_step" in caplog.text or "training_step" in str([*again.iterdir()])


def test_observers_are_no_part_of_the_run_id(cli):
    ran(cli)
    watching = [
        "LearningRateMonitor",
        "ModelCheckpoint",
        "ModelSummary",
        "DeviceStatsMonitor",
        "TQDMProgressBar",
    ]
    flags = [f"--trainer.callbacks+={name}" for name in watching]
    assert "is finished" in ran(
        cli, *flags, "--trainer.logger=CSVLogger", "--trainer.profiler=simple"
    )
    assert "is finished" not in ran(
        cli, "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss"
    )


def test_the_verbs_that_evaluate_tell_loggers_too(cli):
    ran(cli)
    step = {"validate": "val/loss", "test": "test/loss"}
    for verb, metric in step.items():
        Rows.rows.clear()
        code, _, err = cli(verb, *SHORT, ROWS)
        assert code == 0, err
        assert [(at, metric in row) for at, row in Rows.rows] == [(10, True)]


def files(folder):
    return sorted(path.name for path in Path(folder).rglob("epoch=*.ckpt"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"monitor": "val/acc1", "mode": "max", "save_top_k": 2},
        {"monitor": "val/loss", "save_on_train_epoch_end": False},
        {"monitor": "train/loss", "save_top_k": -1},
        {"every_n_train_steps": 3, "save_top_k": -1},
        {"monitor": "val/loss", "every_n_train_steps": 2, "save_top_k": -1},
    ],
    ids=str,
)
@pytest.mark.parametrize("every", [1, 2])
def test_model_checkpoint_writes_the_files_of_a_stock_trainer(cli, options, every):
    flags = [
        f"--trainer.callbacks.{key}={json.dumps(value).strip(chr(34))}"
        for key, value in options.items()
    ]
    ran(
        cli,
        "--trainer.callbacks+=ModelCheckpoint",
        *flags,
        f"--trainer.check_val_every_n_epoch={every}",
    )
    ours = files("runs")
    assert {path.parent for path in Path("runs").rglob("epoch=*.ckpt")} == {
        only_run() / "checkpoints"
    }
    callback = pl.callbacks.ModelCheckpoint(**options)
    stock(
        [callback],
        enable_checkpointing=True,
        check_val_every_n_epoch=every,
        default_root_dir="stock",
    )
    assert ours == files("stock") and ours


@pytest.mark.parametrize(
    ("options", "every"),
    [
        ({"monitor": "val/loss", "patience": 1, "min_delta": 0.5}, 1),
        ({"monitor": "val/loss", "patience": 1, "min_delta": 0.5}, 2),
        ({"monitor": "val/acc1", "mode": "max", "stopping_threshold": 0.05}, 1),
        ({"monitor": "val/loss", "divergence_threshold": 1.0}, 1),
        (
            {
                "monitor": "val/loss",
                "patience": 1,
                "min_delta": 0.5,
                "check_on_train_epoch_end": False,
            },
            1,
        ),
        ({"monitor": "train/loss", "patience": 1, "min_delta": 0.5}, 1),
        ({"monitor": "nowhere", "strict": False}, 1),
    ],
    ids=str,
)
def test_early_stopping_stops_where_a_stock_trainer_does(cli, options, every):
    flags = [
        f"--trainer.callbacks.{key}={json.dumps(value).strip(chr(34))}"
        for key, value in options.items()
    ]
    flags += ["--trainer.max_epochs=6", f"--trainer.check_val_every_n_epoch={every}"]
    out = ran(cli, "--trainer.callbacks+=EarlyStopping", *flags)
    rows = [json.loads(line) for line in (only_run() / "metrics.jsonl").read_text().splitlines()]
    trainer, _ = stock(
        [pl.callbacks.EarlyStopping(**options)], max_epochs=6, check_val_every_n_epoch=every
    )
    assert rows[-1]["step"] == trainer.global_step
    assert ("stopped early" in out) == (trainer.global_step < 6 * BATCHES)


def test_what_callbacks_say_is_shown(cli, caplog):
    caplog.set_level(logging.INFO, "pytorch_lightning")
    verbose = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss"]
    ran(cli, *verbose, "--trainer.callbacks.verbose=true", "--trainer.enable_model_summary=true")
    said = [record.getMessage() for record in caplog.records]
    assert any("Metric val/loss improved" in line for line in said)
    assert any("Total params" in line for line in said)
    assert not [
        line for line in said if re.search(r"GPU available|Tip|`Trainer.fit` stopped", line)
    ]


@pytest.mark.parametrize(
    "how", ["--trainer.callbacks+=TQDMProgressBar", "--trainer.enable_progress_bar=true"]
)
def test_a_bar_of_lightning_instead_of_ours(cli, how):
    code, out, err = cli("fit", *SHORT, how)
    assert code == 0, err
    assert "train/loss=" in out + err and "val/acc1=" in out + err
    assert "step 10/10" not in out


REFUSED = [
    (
        ["LearningRateMonitor"],
        "LearningRateMonitor writes to a logger, and there is none: add --trainer.logger CSVLogger",
    ),
    (["DeviceStatsMonitor"], "DeviceStatsMonitor writes to a logger"),
    (
        [
            "ThroughputMonitor",
            "--trainer.callbacks.batch_size_fn=trials.test_lightning_observers.batch_size",
        ],
        "ThroughputMonitor writes to a logger",
    ),
    (["EarlyStopping", "--trainer.callbacks.monitor=val_loss"], "did you mean val/loss?"),
    (["EarlyStopping", "--trainer.callbacks.monitor=train_loss"], "did you mean train/loss?"),
    (
        ["ModelCheckpoint", "--trainer.callbacks.monitor=acc"],
        "ModelCheckpoint monitors acc, which this training does not",
    ),
    (
        ["EarlyStopping", "--trainer.callbacks.monitor=val/loss", "--trainer.limit_val_batches=0"],
        "EarlyStopping monitors val/loss, which this training does not measure",
    ),
    (
        ["ModelCheckpoint", "--trainer.callbacks.save_last=true"],
        "give it a folder of its own with --trainer.callbacks",
    ),
    (
        ["ModelCheckpoint", "--trainer.callbacks.filename=best"],
        "give it a folder of its own with --trainer.callbacks",
    ),
    (["ModelCheckpoint", "--trainer.enable_checkpointing=false"], "exclude each other"),
    (["TQDMProgressBar", "--trainer.enable_progress_bar=false"], "exclude each other"),
]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            ["--trainer.callbacks+=EarlyStoping"],
            "there is no class EarlyStoping; did you mean EarlyStopping?",
        ),
        (
            ["--trainer.callbacks+=EarlyStopping"],
            "EarlyStopping needs --trainer.callbacks.monitor, such as val/loss",
        ),
        (["--trainer.logger=CSVLoger"], "there is no class CSVLoger; did you mean CSVLogger?"),
        (
            ["--trainer.logger=CSVLogger", "--trainer.logger.nme=x"],
            "unknown option nme of CSVLogger; did you mean name?",
        ),
        (
            ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.save_top_k=3"],
            "No quantity for top_k to track",
        ),
        (
            ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.filename={epoch"],
            "cannot make names of {epoch (",
        ),
        (["--trainer.precision=transformer-engine"], "Requirement 'transformer_engine"),
        (
            ["--trainer.profiler=foo"],
            "it can only be one of ['simple', 'advanced', 'pytorch', 'xla']",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_a_class_is_told_without_what_else_could_have_been(cli, flags, line):
    code, _, err = cli("fit", *SHORT, *flags)
    assert code == 2 and line in err and "Union" not in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "line"), REFUSED, ids=lambda value: "-".join(value) if isinstance(value, list) else ""
)
def test_refused_before_anything_is_written(cli, flags, line):
    code, _, err = cli("fit", *SHORT, f"--trainer.callbacks+={flags[0]}", *flags[1:])
    errors = [each for each in err.splitlines() if not each.startswith("note: ")]
    assert code == 2 and len(errors) == 1 and line in errors[0], err
    assert not Path("runs").exists()


def absent(*packages):
    import importlib.util

    return [
        pytest.param(
            *row,
            marks=pytest.mark.skipif(
                bool(importlib.util.find_spec(row[1])), reason="it is installed"
            ),
        )
        for row in packages
    ]


@pytest.mark.parametrize(
    ("flag", "package"),
    absent(
        ("--trainer.logger=TensorBoardLogger", "tensorboard"),
        ("--trainer.logger=MLFlowLogger", "mlflow"),
        ("--trainer.callbacks+=RichProgressBar", "rich"),
        ("--trainer.callbacks+=RichModelSummary", "rich"),
    ),
)
def test_a_package_that_is_missing(cli, flag, package):
    code, _, err = cli("fit", *SHORT, flag)
    name = flag.rpartition("=")[2]
    assert code == 2
    assert (
        err == f"error: {name} needs the package {package}, which is not installed: pip install "
        f"{package}\n"
    )


def test_own_loaders_in_a_stock_trainer(cli):
    images = torch.randint(0, 255, (32, 3, 8, 8), dtype=torch.uint8)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images, torch.arange(32) % 10), 8
    )
    task = build_alone(TINY).task
    task.std.fill_(255.0)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(task, loader, loader)
    assert trainer.callback_metrics["val/loss"] > 0 and trainer.callback_metrics["train/loss"] > 0
    assert trainer.test(task, loader, verbose=False)[0]["test/acc1"] == pytest.approx(
        task.metrics["test/acc1"]
    )


def test_a_stock_trainer_may_try_a_few_batches_first():
    """Its default check before the training evaluates two batches, not every sample."""
    trainer, task = stock(
        logger=Rows(), num_sanity_val_steps=2, limit_val_batches=1.0, max_epochs=1
    )
    assert [step for step, row in Rows.rows if "val/loss" in row] == [BATCHES - 1]
    assert trainer.callback_metrics["val/loss"] == pytest.approx(task.metrics["val/loss"])
