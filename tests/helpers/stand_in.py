"""Stands in for the command line in a sweep's processes; a module of its own, because a test's
imports torch.
"""

import json
import os
import signal
import time
from pathlib import Path


def train(arguments):
    """A run of one row, or a failure, as its parameters say."""
    options = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    parameters = json.loads(Path(arguments[arguments.index("recipe.yaml") + 2]).read_text())
    print("parameters", parameters, "threads", options.get("--run.threads"), flush=True)
    print("own session", os.getsid(0) == os.getpid(), flush=True)
    if parameters["a"] == "environment":
        Path("environment.json").write_text(json.dumps(dict(os.environ)))
    if parameters["a"] == "fails":
        print("error: no luck")
        return 2
    if parameters["a"] == "elsewhere":
        print("error: run is being trained")
        return 2
    if parameters["a"] == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    run = Path(options["--run.root"], options["--run.name"], f"run{parameters['a']}")
    (run / "attempts").mkdir(parents=True)
    attempt = {
        "reason": "running",
        "attempt": 1,
        "last_step": 9,
        "seconds": 30.0,
        "heartbeat": time.time(),
    }
    write(run / "meta.json", {"point": options["--run.point"]})
    write(run / "attempts/1.json", attempt)
    if parameters["a"] == "waits":
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            write(run / "attempts/1.json", attempt | {"reason": "interrupted"})
            return 130
    (run / "metrics.jsonl").write_text(
        '{"step": 3, "val/acc1": 0.5}\n{"step": 6, "val/acc1": 0.75}\n'
        '{"step": 9, "train/loss": 1}\n{"val/a'
    )
    write(run / "attempts/1.json", attempt | {"reason": "finished"})
    return 0


def write(path, content):
    path.write_text(json.dumps(content))
