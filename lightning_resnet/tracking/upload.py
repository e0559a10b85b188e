"""Upload runs to Weights & Biases from a machine that can reach the server, such as a login node.

The rows of metrics.jsonl are sent: each step once, however often a run was killed, and only rows
that W&B does not have yet. A run that has ended and was sent is not looked up on the server again.
resnet-cli sync runs/digits_degradation
resnet-cli sync --watch runs
"""

import json
import os
import shlex
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning_resnet.credentials import refuse_secrets
from lightning_resnet.errors import one_line, tell
from lightning_resnet.files import write_cache
from lightning_resnet.reading import read_json
from lightning_resnet.runs.index import Index
from lightning_resnet.runs.reader import Run
from lightning_resnet.tracking.mirror import MEMORY, Mirror, WandbOptions, id_of
from lightning_resnet.tracking.mode import key_mark, server

# File in the run directory: what the run was when all of it had been sent, and where to.
SENT = "wandb/sent.json"
# Settings of wandb: long timeouts in seconds, because no training waits here.
PATIENT = {"init_timeout": 60.0, "finish_timeout": 300.0, "finish_timeout_raises": True}
DELETED = "previously created and deleted"  # in the answer of W&B, which takes no id twice
LONGEST_S = 10_000_000  # seconds between two uploads; time.sleep refuses much more


class Uploader:
    """Uploader of runs, which keeps running runs open between two uploads.

    Args:
        folder: folder for wandb's own files.
        every: seconds between uploads; 0: there is only one.
    """

    def __init__(self, folder: Path, every: float = 0.0) -> None:
        self.folder = folder
        self.every = every
        self.settings: dict[str, Any] = dict(PATIENT)
        if every:
            self.settings["x_file_stream_transmit_interval"] = min(max(every, 1.0), 15.0)
        self.open: dict[Path, Mirror] = {}
        url = server()
        self._where = {
            "server": url,
            "key": key_mark(url),  # without an entity, the rows go to the owner of the key
            "entity": os.environ.get("WANDB_ENTITY"),
            "project": os.environ.get("WANDB_PROJECT"),
        }
        self._uploaded: dict[Path, dict[str, Any]] = {}  # each run at its last upload
        self._faults: dict[Path, str] = {}  # why a run could not be uploaded the last time

    def upload(self, runs: Iterable[Path]) -> int:
        """Upload the new rows of each run, and return the number of runs that failed."""
        failed = 0
        unchanged = 0
        with Index() as index:
            for run in runs:
                try:
                    now = self._now(run, index)
                    if self._uploaded.get(run) == now:
                        continue
                    if read_json(run / SENT) == now:
                        unchanged += 1
                    else:
                        self._upload(run, now)
                    self._uploaded[run] = now
                    self._faults.pop(run, None)
                except Exception as error:  # an error of one run must not keep the others
                    failed += 1
                    fault = one_line(error)
                    if DELETED in fault:
                        fault = _of_deleted(run)
                    if self._faults.get(run) != fault:  # --watch tries again and again
                        tell(f"{run}: not uploaded ({fault})")
                    self._faults[run] = fault
        if unchanged:
            tell(
                f"runs that were sent before and have not changed since: {unchanged:,} (to send "
                f"one again, remove {SENT} in its folder)"
            )
        return failed

    def close(self) -> None:
        """Close the open runs; they can be continued later."""
        for run, mirror in self.open.items():
            mirror.finish(Run(run).status())

    def _now(self, run: Path, index: Index) -> dict[str, Any]:
        """Return what a run is now and where its rows go, as `SENT` keeps it."""
        rows = Run(run).rows_file
        recipe = Run(run).config_file
        return {
            **self._where,
            "state": index.facts(run, details=False).status,
            "bytes": rows.stat().st_size if rows.exists() else 0,
            "recipe": recipe.stat().st_mtime_ns if recipe.exists() else 0,
        }

    def _upload(self, run: Path, now: dict[str, Any]) -> None:
        """Upload the new rows of a run, and print what was done."""
        reader = Run(run)
        state = now["state"]
        config = reader.config()
        # Older versions, or other programs, may have written secrets.
        refuse_secrets(config, str(reader.config_file))
        options = WandbOptions(**(config.get("wandb") or {}))
        if why := _why_not(run, state, options):
            tell(f"{run}: {why}")
            return
        sent, url = self._send(run, state, options, config)
        tell(f"{run}: {sent} rows sent to {url}")
        if state != "running":
            write_cache(run / SENT, now)

    def _send(
        self, run: Path, state: str, options: WandbOptions, config: dict[str, Any]
    ) -> tuple[int, str]:
        """Send the new rows of a run; return their number and the address of the W&B run."""
        sent = 0
        mirror = self.open.pop(run, None) or Mirror(options)
        try:
            if not mirror.run:
                meta = Run(run).meta()
                sent = mirror.open("online", run, meta, config, self.folder, **self.settings)
            url = mirror.run.url
            sent += mirror.catch_up(run)
        except Exception:
            with suppress(Exception):  # the next upload opens it again
                mirror.close(state)
            raise
        if self.every and state == "running":
            self.open[run] = mirror
        else:
            mirror.close(state)
            for file in run.glob("wandb/offline-run-*/*.wandb"):
                # Without this mark `wandb sync` would append all rows once more.
                with suppress(OSError):  # of a colleague's run, which may not be written
                    file.with_name(f"{file.name}.synced").touch()
        return sent, url


def _of_deleted(run: Path) -> str:
    """Return how to send a run whose W&B run was deleted."""
    memory = read_json(run / MEMORY) or {}
    other = json.dumps(memory | {"id": f"{id_of(run, Run(run).meta())}-again"})
    return (
        "it was deleted on W&B: restore it there, or send it as another run after `echo "
        f"{shlex.quote(other)} > {shlex.quote(str(run / MEMORY))}`"
    )


def _why_not(run: Path, state: str, options: WandbOptions) -> str:
    """Return the reason why a run is not to be uploaded; empty if it is."""
    if options.mode == "disabled":
        return (
            f"wandb.mode is disabled, so nothing is sent: write `mode: auto` under `wandb:` in "
            f"{Run(run).config_file} to send it"
        )
    if state == "running" and (read_json(run / MEMORY) or {}).get("mode") == "online":
        return "sends its rows itself"
    return ""
