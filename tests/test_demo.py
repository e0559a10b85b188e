"""What `make demo` shows, and what a user's own net must go through, with the real processes."""

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from conftest import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def resnet_cli(*args):
    command = [str(Path(sys.executable).with_name("resnet-cli")), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=800, check=True).stdout


def test_degradation_on_digits(tmp_path, monkeypatch):
    """He et al. 2015, figures 1 and 6, in 330 steps: the deeper plain net is worse, the deeper residual net is not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    resnet_cli("sweep", "configs/sweeps/digits_degradation.yaml", "--local", "-j", 2)
    resnet_cli("compare", "runs/digits_degradation")
    report = Path("runs/digits_degradation/report")
    assert {p.name for p in report.iterdir()} == {"curves.png", "curves.svg", "table.md", "table.csv", "index.html"}
    table = pd.read_csv(report / "table.csv", keep_default_na=False).set_index(["depth", "shortcut"])
    columns = "depth,shortcut,n,val_err_final_mean,val_err_final_std,val_err_best_mean,train_err_mean,gap_points"
    assert (report / "table.csv").read_text().splitlines()[0] == columns + ",params,seconds"
    error = table["val_err_final_mean"].astype(float)
    assert (table["n"] == 3).all()
    assert error[56, "A"] <= error[20, "A"] + 1

    from lightning_resnet.analysis import load_runs

    runs, history = load_runs(["runs/digits_degradation"])
    final = history[history["kind"] == "val"].sort_values("step").groupby("run_id").last()
    runs = runs.set_index("run_id").join(final[["val/acc1", "train_eval/acc1"]])
    for seed in range(3):
        for metric in ("val/acc1", "train_eval/acc1"):
            plain = runs[(runs["seed"] == seed) & (runs["shortcut"] == "none")].set_index("depth")[metric]
            assert plain[56] <= plain[20] - 0.10, (seed, metric)


def test_a_net_from_a_file_outside_the_package_sweeps_and_compares(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(REPOSITORY / "tests/gated.py", "gated.py")
    recipe = yaml.safe_load((REPOSITORY / "configs/digits.yaml").read_text())
    recipe["model"]["net"] = {"class_path": "gated.GatedNet", "init_args": {"depth": 2}}
    recipe["trainer"]["max_epochs"] = 1
    Path("gated.yaml").write_text(yaml.safe_dump(recipe))
    sweep = {
        "method": "grid",
        "command": ["resnet-cli", "fit", "--config", "gated.yaml", "--config", "${args_json_file}"],
        "parameters": {"model.net.depth": {"values": [2, 4]}, "seed_everything": {"values": [0, 1]}},
    }
    Path("gates.yaml").write_text(yaml.safe_dump(sweep))
    assert "4 finished, 0 not" in resnet_cli("sweep", "gates.yaml", "--local", "-j", 2)
    table = resnet_cli("compare", "runs/gates")
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:4]] == ["2", "4"]
    assert "0 finished before" not in resnet_cli("sweep", "gates.yaml", "--local")
