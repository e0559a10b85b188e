"""Our sweep YAML drives `resnet-cli fit` through W&B's own `wandb sweep` and `wandb agent`, server:
a stand-in.
"""

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from helpers.command_line import REPOSITORY
from helpers.run_dir import unlabelled
from helpers.wandb_runs import BIN

pytestmark = pytest.mark.usefixtures("home")

SWEEP = """
name: agent
method: grid
command: ["${env}", resnet-cli, fit, --config, configs/digits.yaml, --config, "${args_json_file}"]
parameters:
  model.net.depth: {value: 8}
  trainer.max_epochs: {value: 1}
  trainer.gradient_clip_val: {values: [null, 1.0]}
  model.schedule.init_args.at: {values: [[0.25, 0.5]]}
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_agent_runs_every_point(server, tmp_path):
    Path("configs").symlink_to(REPOSITORY / "configs")
    Path("s.yaml").write_text(SWEEP)
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}

    def wandb(*command):
        subprocess.run(
            ["wandb", *command], env=environment, timeout=500, check=True, stdin=subprocess.DEVNULL
        )

    wandb("sweep", "--project", "p", "--entity", "me", "s.yaml")
    wandb("agent", "me/p/sweep0")
    configs = [
        yaml.safe_load(file.read_text())
        for file in unlabelled(Path("runs").glob("*/*/config.yaml"))
    ]
    assert sorted(str(c["trainer"].get("gradient_clip_val")) for c in configs) == ["1.0", "None"]
    assert all(c["model"]["schedule"]["init_args"]["at"] == [0.25, 0.5] for c in configs)
    assert len(unlabelled(Path("runs").glob("digits/*/checkpoints/last.ckpt"))) == 2
