"""Weights & Biases mirrors the run directory, which stays the truth: whatever W&B does, the run goes on.

All attempts of a run are one W&B run, whose id is ours; x is the optimizer step. An offline attempt lies in
<run>/wandb/offline-run-*: `wandb leet` shows it, `resnet-cli sync RUN` uploads the run.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Literal

from lightning_resnet.credentials import refuse_secrets
from lightning_resnet.errors import one_line
from lightning_resnet.files import write_json
from lightning_resnet.reading import read_json
from lightning_resnet.runs.metrics import Row, merge, read_rows
from lightning_resnet.tracking.mode import choose_mode

PROJECT = "lightning_resnet"
MEMORY = "wandb/mirror.json"  # in the run directory: what W&B calls the run, and whether it was online
START_S = 6.5  # seconds, imports among them, until the server must have taken the run: then training goes on offline
FINISH_S = 10.0  # and to take the rest at the end: a preempted job has little more before it is killed
FORGET_S = 1.0  # and wandb's process to end, once it is of no use
FLUSH_S = 2.0  # seconds of rows that a killed offline attempt may lose; W&B's own is 15
SUMMARY = {"loss": "min", "acc1": "last,max", "acc5": "last,max"}
SPLITS = ("val", "val_ema", "train_eval")


@dataclass
class WandbOptions:
    """Weights & Biases, where the run is mirrored; the key comes from WANDB_API_KEY or ~/.netrc, never from here.

    Args:
        mode: auto is online if a key is configured and the server answers within seconds, else offline.
        project: of the runs; default: WANDB_PROJECT or lightning_resnet.
        entity: user or team that owns the project; default: WANDB_ENTITY or the key's.
        details: also send the host's name, command line, installed packages, hardware use and console output.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str | None = None
    entity: str | None = None
    details: bool = False


class Mirror:
    """One attempt at a run, on W&B. Only the first rank has one; after `start` nothing in it ever raises.

    Args:
        options: what the user chose.
        say: prints a line.
    """

    def __init__(self, options: WandbOptions, say: Callable[[str], Any] = print) -> None:
        self.options, self.say = options, say
        self.run: Any = None
        self._sent: set[tuple[Any, ...]] = set()

    def start(self, run_dir: Path, meta: dict[str, Any], config: dict[str, Any]) -> None:
        """Begin to mirror, online or offline, and say which; what earlier attempts could not send follows.

        Args:
            run_dir: of the run; its name is the id.
            meta: content of meta.json.
            config: the whole resolved configuration.
        """
        begun = time.monotonic()
        try:
            mode, why = choose_mode(self.options.mode)
        except Exception as error:  # W&B must never cost a run, whatever goes wrong in it
            mode, why = "disabled", one_line(error)
        left = max(2.0, START_S - (time.monotonic() - begun))
        if mode == "online" and (fault := self._try(mode, run_dir, meta, config, left)):
            mode, why = "offline", fault
        if mode == "offline" and (fault := self._try(mode, run_dir, meta, config, START_S)):
            mode, why = "disabled", fault
        note = f", {self.run.url}" if mode == "online" else f" ({why})" if why else ""
        later = f"; to upload it: resnet-cli sync {run_dir}" if mode == "offline" else ""
        if mode != "disabled" or why:
            self.say(f"W&B: {mode}{note}{later}")

    def open(
        self,
        mode: str,
        run_dir: Path,
        meta: dict[str, Any],
        config: dict[str, Any],
        folder: Path | None = None,
        **settings: Any,
    ) -> int:
        """Open the W&B run in a mode; raises what wandb raises, and UserError where a secret would be sent.

        Returns how many rows it lacked; rows are numbers, so all text that W&B is sent passes here.

        Args:
            mode: online | offline.
            run_dir: of the run.
            meta: content of meta.json.
            config: the resolved configuration.
            folder: for wandb's files; default: in the run directory.
            settings: further ones of wandb's.
        """
        import wandb

        (folder or run_dir / "wandb").mkdir(exist_ok=True)  # if missing, wandb goes to /tmp without a word
        before = read_json(run_dir / MEMORY) or {}
        facts = {k: v for k, v in meta.items() if k != "command" or self.options.details}
        sent = {
            "id": before.get("id") or run_dir.name,  # under a `wandb agent` W&B chose it
            "project": self.options.project or before.get("project") or os.environ.get("WANDB_PROJECT", PROJECT),
            "entity": self.options.entity or before.get("entity") or os.environ.get("WANDB_ENTITY"),
            **_labels(meta, config),
            "config": config | {"meta": facts},
        }
        refuse_secrets(sent, "what W&B is sent")
        self.run = wandb.init(
            **sent,
            dir=folder or run_dir,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(**{**settings_for(mode, meta, self.options.details), **settings}),
        )
        _define(self.run)
        return self._catch_up_from_server(run_dir) if mode == "online" else 0

    def catch_up(self, run_dir: Path) -> int:
        """Send the rows of metrics.jsonl that W&B does not have; returns how many."""
        before = len(self._sent)
        for row in merge(read_rows(run_dir / "metrics.jsonl")[0]):
            self._log(row)
        return len(self._sent) - before

    def record(self, row: Row) -> None:
        """Send a row of metrics.jsonl."""
        try:
            self._log(row)
        except Exception as error:
            self._give_up(error)

    def finish(self, reason: str) -> None:
        """End the attempt; `preempted` is told apart, so that a `wandb agent` may run it again."""
        try:
            self.close(reason)
        except Exception as error:
            self._give_up(error)

    def close(self, reason: str) -> None:
        """End the attempt; raises what wandb raises."""
        if self.run:
            if reason not in ("finished", "failed", "diverged"):
                self.run.mark_preempting()
            self.run.finish(exit_code=0 if reason == "finished" else 1)
            self.run = None

    def _try(self, mode: str, run_dir: Path, meta: dict[str, Any], config: dict[str, Any], seconds: float) -> str:
        """Open within so many seconds; what went wrong, else nothing."""
        try:
            self.open(mode, run_dir, meta, config, init_timeout=seconds)
            names = {"id": self.run.id, "project": self.run.project, "entity": self.run.entity or None}
            write_json(run_dir / MEMORY, {"mode": mode, **names})
            return ""
        except Exception as error:
            self.run = None
            _forget()
            return one_line(error)

    def _catch_up_from_server(self, run_dir: Path) -> int:
        until = self.run.summary.get("time") or 0.0
        rows = read_rows(run_dir / "metrics.jsonl")[0]
        self._sent = {_key(row) for row in rows if row.get("time", 0.0) <= until}
        return self.catch_up(run_dir)

    def _log(self, row: Row) -> None:
        if self.run and _key(row) not in self._sent:
            self._sent.add(_key(row))
            finite = {k: v for k, v in row.items() if v is not None and v == v}  # nan would be the minimum for ever
            self.run.log({k: v for k, v in finite.items() if k != "kind"})

    def _give_up(self, error: Exception) -> None:
        self.run = None
        self.say(f"W&B stopped ({one_line(error)}); the run goes on, and resnet-cli sync uploads it")
        _forget()


def settings_for(mode: str, meta: dict[str, Any], details: bool) -> dict[str, Any]:
    """Of a W&B run, so that nothing private is sent unless `details` are wanted."""
    return {
        "mode": mode,
        "silent": True,
        "program": "resnet-cli",  # not the path of it
        "finish_timeout": FINISH_S,
        "x_transaction_log_flush_interval": FLUSH_S,
        "git_commit": meta.get("git_sha"),
        "disable_git": True,  # would send the remote's address with a user name in it
        "disable_code": True,
        "x_disable_meta": True,  # holds the command line as typed, and SLURM's account and nodes
        "console": "wrap" if details else "off",
        "x_disable_stats": not details,
        "x_disable_machine_info": not details,
        "x_save_requirements": details,
        "host": None if details else "private",
    }


def _labels(meta: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    net = config["model"]["net"].get("init_args", {})
    tags = [f"{key}={net[key]}" for key in ("depth", "shortcut") if key in net]
    name = " ".join([*(tags or [str(meta.get("net", "net"))]), f"seed={config['seed_everything']}"])
    return {
        "name": name,
        "group": meta.get("name"),
        "job_type": "fit",
        "tags": [tag[:64] for tag in (*tags, f"data={meta.get('source')}")],  # the server takes no longer ones
    }


def _define(run: Any) -> None:
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    for metric in (f"{split}/{name}" for split in SPLITS for name in SUMMARY):
        run.define_metric(metric, step_metric="step", summary=SUMMARY[metric.rpartition("/")[2]])


def _key(row: Row) -> tuple[Any, ...]:
    """What tells a row from others: a resumed run repeats rows, and W&B can only append."""
    return row["step"], *sorted(name for name in row if "/" in name)


def _forget() -> None:
    """Part with wandb's process, which may be dead: its own exit handler would print tracebacks.

    In a thread: wandb waits without a limit until what the server did not take is sent.
    """
    import wandb

    def part() -> None:
        with suppress(Exception):
            wandb.teardown()

    thread = Thread(target=part, daemon=True)
    thread.start()
    thread.join(FORGET_S)
