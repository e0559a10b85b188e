"""Mirror the run directory on Weights & Biases; no failure of W&B stops the run.

The run directory stays the truth. All attempts of a run are one W&B run; the x axis is the
optimizer step. An offline attempt is in <run>/wandb/offline-run-*:
`wandb leet` shows it, `resnet-cli sync RUN` uploads the run.
"""

import os
import shlex
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
from lightning_resnet.runs.metrics import Row, merge
from lightning_resnet.runs.reader import Run
from lightning_resnet.runs.status import HALVED
from lightning_resnet.tracking.mode import choose_mode

PROJECT = "lightning_resnet"
# File in the run directory: the W&B id, project and entity of the run, and the mode of its newest
# attempt: online, offline, or stopped after an error.
MEMORY = "wandb/mirror.json"
# Seconds, including imports, in which the server must take the run; otherwise it goes on offline.
START_S = 6.5
# Seconds for the last rows at the end; a preempted job is killed soon after.
FINISH_S = 10.0
FORGET_S = 1.0  # seconds in which wandb's process must end after a failure
FLUSH_S = 2.0  # seconds of rows that a killed offline attempt may lose; the default of W&B is 15
SUMMARY = {"loss": "min", "acc1": "last,max", "acc5": "last,max"}
SPLITS = ("val", "val_ema", "train_eval")


@dataclass
class WandbOptions:
    """Options of Weights & Biases; the key is in WANDB_API_KEY or ~/.netrc, never in a recipe.

    Args:
        mode: auto | online | offline | disabled; auto is online if a key is configured (offline
            if the server does not answer within seconds), else offline in a SLURM job, else
            disabled.
        project: project of the runs; default: WANDB_PROJECT or lightning_resnet.
        entity: user or team that owns the project; default: WANDB_ENTITY or the owner of the key.
        details: also send the host's name, command line, installed packages, hardware use and
            console output.
    """

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str | None = None
    entity: str | None = None
    details: bool = False


class Mirror:
    """Mirror of one attempt at a run on W&B. Only the first rank has one.

    `start`, `record` and `finish` raise nothing, whatever goes wrong with W&B.

    Args:
        options: options that the user chose.
        say: prints a line.

    Attributes:
        run: the run of wandb; None if there is none.
    """

    def __init__(self, options: WandbOptions, say: Callable[[str], Any] = print) -> None:
        self.options = options
        self.say = say
        self.run: Any = None
        self._run_dir = Path()
        self._sent: set[tuple[Any, ...]] = set()

    def start(self, run_dir: Path, meta: dict[str, Any], config: dict[str, Any]) -> None:
        """Begin to mirror, online or offline, and print which; send rows of earlier attempts.

        Args:
            run_dir: the run directory.
            meta: content of meta.json.
            config: the resolved configuration.
        """
        start = time.monotonic()
        try:
            mode, reason = choose_mode(self.options.mode)
        except Exception as error:  # no error of W&B may stop a run
            mode = "disabled"
            reason = one_line(error)
        seconds_left = max(2.0, START_S - (time.monotonic() - start))
        if mode == "online" and (fault := self._try(mode, run_dir, meta, config, seconds_left)):
            mode = "offline"
            reason = fault
        if mode == "offline" and (fault := self._try(mode, run_dir, meta, config, START_S)):
            mode = "disabled"
            reason = fault
        text = f"W&B: {mode}"
        if mode == "online":
            text += f", {self.run.url}"
        elif reason:
            text += f" ({reason})"
        if mode == "offline":
            text += f"; to upload it: resnet-cli sync {shlex.quote(str(run_dir))}"
        if mode != "disabled" or reason:
            self.say(text)

    def open(
        self,
        mode: str,
        run_dir: Path,
        meta: dict[str, Any],
        config: dict[str, Any],
        folder: Path | None = None,
        **settings: Any,
    ) -> int:
        """Open the W&B run; it may raise all that wandb raises.

        All text that W&B receives passes here, because rows are numbers.

        Args:
            mode: online | offline.
            run_dir: the run directory.
            meta: content of meta.json.
            config: the resolved configuration.
            folder: folder for wandb's files; default: the run directory.
            settings: further settings of wandb.

        Returns:
            The number of rows that W&B lacked.

        Raises:
            UserError: a secret would be sent.
        """
        import wandb

        # Without the folder, wandb would silently use /tmp.
        (folder or run_dir / "wandb").mkdir(exist_ok=True)
        self._run_dir = run_dir
        before = read_json(run_dir / MEMORY) or {}
        project = self.options.project or before.get("project")
        entity = self.options.entity or before.get("entity")
        facts = {k: v for k, v in meta.items() if k != "command" or self.options.details}
        sent = {
            "id": id_of(run_dir, meta),
            "project": project or os.environ.get("WANDB_PROJECT", PROJECT),
            "entity": entity or os.environ.get("WANDB_ENTITY"),
            "group": meta.get("name"),
            "job_type": "fit",
            "config": config | {"meta": facts},
        }
        labels = _labels(meta, config)
        refuse_secrets(sent | labels, "what W&B is sent")
        all_settings = settings_for(mode, meta, self.options.details) | settings
        self.run = wandb.init(
            **sent,
            dir=folder or run_dir,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(**all_settings),
        )
        if not self.run.resumed:  # else the user may have changed them on W&B
            self.run.name = labels["name"]
            self.run.tags = labels["tags"]
        _define(self.run)
        return self._catch_up_from_server(run_dir) if mode == "online" else 0

    def catch_up(self, run_dir: Path) -> int:
        """Send the rows of metrics.jsonl that W&B does not have, and return their number."""
        before = len(self._sent)
        for row in merge(Run(run_dir).rows().rows):
            self._log(row)
        return len(self._sent) - before

    def record(self, row: Row) -> None:
        """Send a row of metrics.jsonl."""
        try:
            self._log(row)
        except Exception as error:
            self._give_up(error)

    def finish(self, reason: str) -> None:
        """End the attempt on W&B, and keep any error of wandb from the training.

        Args:
            reason: how the attempt ended. After any reason but finished, `HALVED`, failed and
                diverged, such as preempted, a `wandb agent` may run it again.
        """
        try:
            self.close(reason)
        except Exception as error:
            if reason in ("preempted", "interrupted"):  # the signal has ended wandb's process too
                self.run = None
                _forget()
                return
            self._give_up(error)

    def close(self, reason: str) -> None:
        """End the attempt; it may raise all that wandb raises.

        A run that hyperband ended has a tag and a summary that tell so, until it is finished.
        """
        if self.run:
            tags = tuple(tag for tag in self.run.tags or () if tag != HALVED)
            if reason == HALVED:
                self.run.tags = (*tags, HALVED)
                self.run.summary["stopped"] = HALVED
            elif reason == "finished" and self.run.summary.get("stopped"):
                self.run.tags = tags
                del self.run.summary["stopped"]
            if reason not in ("finished", "failed", "diverged", HALVED):
                self.run.mark_preempting()
            self.run.finish(exit_code=0 if reason in ("finished", HALVED) else 1)
            self.run = None

    def _try(
        self,
        mode: str,
        run_dir: Path,
        meta: dict[str, Any],
        config: dict[str, Any],
        seconds: float,
    ) -> str:
        """Open the W&B run within a time limit; return what went wrong, or an empty text."""
        try:
            self.open(mode, run_dir, meta, config, init_timeout=seconds)
            names = {
                "id": self.run.id,
                "project": self.run.project,
                "entity": self.run.entity or None,
            }
            write_json(run_dir / MEMORY, {"mode": mode, **names})
            return ""
        except Exception as error:
            self.run = None
            _forget()
            return one_line(error)

    def _catch_up_from_server(self, run_dir: Path) -> int:
        """Send the rows that come after the server's newest row, and return their number."""
        newest = {name: self.run.summary.get(name) for name in ("attempt", "step", "time")}
        self._sent = {_key(row) for row in rows_until(Run(run_dir).rows().rows, newest)}
        return self.catch_up(run_dir)

    def _log(self, row: Row) -> None:
        """Send a row, unless W&B has it."""
        if not self.run or _key(row) in self._sent:
            return
        self._sent.add(_key(row))
        values = {}
        for name, value in row.items():
            is_nan = value != value  # W&B would keep a NaN as the minimum
            if name != "kind" and value is not None and not is_nan:
                values[name] = value
        self.run.log(values)

    def _give_up(self, error: Exception) -> None:
        """Stop mirroring after an error, and print it; `sync` then sends the rows."""
        self.run = None
        with suppress(OSError):
            memory = read_json(self._run_dir / MEMORY) or {}
            write_json(self._run_dir / MEMORY, memory | {"mode": "stopped"})
        self.say(
            f"W&B stopped ({one_line(error)}); the run does not need it: resnet-cli sync uploads it"
        )
        _forget()


def rows_until(rows: list[Row], newest: dict[str, Any]) -> list[Row]:
    """Return the rows of metrics.jsonl that come no later than W&B's newest row.

    Clocks do not decide: those of two nodes differ, and a clock may be set back.

    Args:
        rows: rows in the order in which they were written.
        newest: attempt, step and time of W&B's newest row, which may be None.
    """
    for n in range(len(rows), 0, -1):
        if newest["time"] is not None and rows[n - 1].get("time") == newest["time"]:
            return rows[:n]
    last = (newest["attempt"] or 0, newest["step"] or 0)
    return [row for row in rows if (row.get("attempt", 1), row["step"]) <= last]


def id_of(run_dir: Path, meta: dict[str, Any]) -> str:
    """Return the id of a run on W&B.

    The id of the run directory would not do, because others may train the same in their folders,
    but runs of older versions keep it. The memory has what W&B chose under a `wandb agent`.
    """
    before = read_json(run_dir / MEMORY) or {}
    return before.get("id") or meta.get("wandb_id") or run_dir.name


def settings_for(mode: str, meta: dict[str, Any], details: bool) -> dict[str, Any]:
    """Return the settings of a W&B run, which sends nothing private unless `details` is set."""
    return {
        "mode": mode,
        "silent": True,
        "program": "resnet-cli",  # instead of the path of the program
        "finish_timeout": FINISH_S,
        "x_transaction_log_flush_interval": FLUSH_S,
        "git_commit": meta.get("git_sha"),
        "disable_git": True,  # the address of the remote may have a user name
        "disable_code": True,
        "x_disable_meta": True,  # has the command line, and SLURM's account and nodes
        "console": "wrap" if details else "off",
        "x_disable_stats": not details,
        "x_disable_machine_info": not details,
        "x_save_requirements": details,
        "host": None if details else "private",
    }


def _labels(meta: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Return name and tags of a W&B run."""
    net = config["model"]["net"].get("init_args", {})
    tags = [f"{key}={net[key]}" for key in ("depth", "shortcut") if key in net]
    name = " ".join(tags) or str(meta.get("net", "net"))
    tags.append(f"data={meta.get('source')}")
    return {
        "name": f"{name} seed={config['seed_everything']}",
        "tags": [tag[:64] for tag in tags],  # the server accepts 64 characters
    }


def _define(run: Any) -> None:
    """Define the x axis of all metrics, and the summary of those of an evaluation."""
    run.define_metric("step")
    run.define_metric("*", step_metric="step")
    for split in SPLITS:
        for name, summary in SUMMARY.items():
            run.define_metric(f"{split}/{name}", step_metric="step", summary=summary)


def _key(row: Row) -> tuple[Any, ...]:
    """Return the step and the metrics' names of a row, which identify it.

    A resumed run repeats rows, and W&B can only append.
    """
    return row["step"], *sorted(name for name in row if "/" in name)


def _forget() -> None:
    """Shut down wandb's process, which may be dead, without waiting for unsent data.

    The exit handler of wandb would print tracebacks. The call is in a thread, because wandb waits
    without a limit until the server has taken all data.
    """

    def teardown() -> None:
        with suppress(Exception):  # wandb may be what cannot be imported
            import wandb

            wandb.teardown()

    thread = Thread(target=teardown, daemon=True)
    thread.start()
    thread.join(FORGET_S)
