"""The doctor names what would make training fail, with its cure, and imports nothing heavy when it shall be quick."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_resnet import doctor, doctor_plan

CODE = """
import json, sys
from lightning_resnet.cli import main
code = main(["doctor", "--quick"])
print(json.dumps([code, [m for m in ("torch", "numpy", "pytorch_lightning", "pandas", "PIL") if m in sys.modules]]))
"""


def test_quick_imports_nothing_heavy(tmp_path):
    done = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    *lines, last = done.stdout.splitlines()
    assert json.loads(last) == [0, []], done.stderr
    found = {line[6:20].strip() for line in lines}
    assert found >= {"versions", "processor", "memory", "runs", "temporary", "decoder", "W&B", "SLURM", "data", "GPU"}


def findings(check):
    return {finding.what: finding for finding in check()}


def test_each_problem_has_its_cure_and_what_training_fails_of_exits_1(cli, monkeypatch):
    assert cli("doctor", "--quick")[0] == 0
    monkeypatch.setattr(doctor.machine, "memory", lambda: 3 * 10**8)
    monkeypatch.setattr(doctor.machine, "workers", lambda n: 1)
    code, out, _ = cli("doctor", "--quick")
    assert code == 1 and "FAILS memory" in out and "--mem" in out and "--cpus-per-task" in out
    monkeypatch.undo()
    monkeypatch.setattr(doctor, "requires", lambda name: ["torch>=99", "no-such-package>=1", "extra; extra == 'dev'"])
    found = findings(doctor.packages)
    assert found["torch"].level == "careful" and found["no-such-package"].level == "fails" and len(found) == 3
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10**6}))
    assert all(f.level == "careful" and f.cure for f in doctor.space())
    monkeypatch.setattr(doctor.machine, "__file__", "/nowhere/machine.py")
    assert findings(doctor.decoder)["decoder"].level == "careful"


def test_the_key_is_found_and_never_shown(monkeypatch, tmp_path):
    secret = "0123456789abcdef" * 2 + "01234567"
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert "offline: no key" in findings(doctor.weights_and_biases)["W&B"].found
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {secret}\n")
    found = str(findings(doctor.weights_and_biases)["W&B"])
    assert "online" in found and "netrc" in found and secret not in found
    monkeypatch.setenv("WANDB_API_KEY", secret)
    found = str(findings(doctor.weights_and_biases)["W&B"])
    assert "WANDB_API_KEY" in found and secret not in found
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "WANDB_MODE=offline" in str(findings(doctor.weights_and_biases)["W&B"])


def test_slurm(monkeypatch):
    step = {"JOB_ID": "7", "STEP_ID": "0", "PROCID": "1", "LOCALID": "1", "NODEID": "0", "STEP_NUM_TASKS": "2"}
    for name, value in (step | {"STEP_NUM_NODES": "1", "NTASKS": "2"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert "job 7 ntasks=2; rank 1 of 2" in findings(doctor.slurm)["SLURM"].found
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "3")
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "2")
    found = findings(doctor.slurm)["SLURM"]
    assert found.level == "fails" and "--ntasks-per-node" in found.cure


RECIPE = """
trainer: {max_epochs: 3, accelerator: cpu}
model: {net: {class_path: CifarResNet, init_args: {depth: 8, width: 4}}}
data: {source: {class_path: Synthetic, init_args: {n: 256, n_val: 32, size: 8}}, batch_size: 64}
run: {threads: 1}
"""


def plan(*flags):
    Path("R.yaml").write_text(RECIPE)
    return {finding.what: finding for finding in doctor_plan.plan(["--config", "R.yaml", *map(str, flags)])}


def test_a_recipe_is_checked_and_forecast(cli, monkeypatch):
    found = plan()
    assert not any(finding.level == "fails" for finding in found.values())
    assert "parameters" in found["net"].found and "images/s" in found["trial"].found
    assert (
        found["steps"].found.startswith("4 per epoch, 12 in 3 epochs") and "sees 64 images" in found["batch norm"].found
    )
    monkeypatch.setattr(doctor_plan, "trial", lambda cli, ranks, device: (0.5, 2.0, "little memory"))
    assert "4.0 s an epoch" in plan()["forecast"].found  # 4 steps of 0.5 s, 2 s of evaluation
    found = plan("--trainer.devices", 8)
    assert found["batch norm"].level == "careful" and "8 images" in found["batch norm"].found
    assert "8 ranks" in found["forecast"].found
    assert plan("--trainer.devices", 3)["batch"].level == "fails"
    assert plan("--data.workers", 99)["workers"].level == "careful"
    fails = plan("--model.net.num_classes", 3)["net"]
    assert fails.level == "fails" and "num_classes 10" in fails.cure
    missing = plan("--data.source", "ImageFolder", "--data.source.root", "nowhere", "--data.size", 8)
    assert missing["recipe"].level == "fails" and "data.source.root" in missing["recipe"].cure


def test_betons_larger_than_memory(cli, monkeypatch):
    monkeypatch.setattr(doctor_plan, "trial", lambda cli, ranks, device: (0.5, 2.0, ""))
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert plan("--data.loader", "ffcv")[".beton files"].level == "ok"
    monkeypatch.setattr(doctor_plan.machine, "memory", lambda: 1000)
    found = plan("--data.loader", "ffcv")[".beton files"]
    assert found.level == "careful" and "--data.order pages" in found.cure


def test_options(cli):
    code, _, err = cli("doctor", "--quick", "--config", "R.yaml")
    assert code == 2 and "--quick" in err
    assert cli("doctor", "--slow")[0] == 2


@pytest.mark.parametrize("missing", [True, False])
def test_imports_that_do_not_fit_end_the_examination(monkeypatch, missing, capsys):
    from lightning_resnet import doctor_deep

    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    if missing:
        monkeypatch.setattr(doctor_deep, "import_module", broken)
    levels = [finding.level for finding in doctor_deep.imports()]
    assert levels == (["fails"] if missing else ["ok"])
    if missing:
        assert doctor.main([]) == 1 and "install both anew" in capsys.readouterr().out
