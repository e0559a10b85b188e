"""Run sweeps whose runs stand in for trainings."""

from pathlib import Path

from helpers.stand_in import train
from lightning_resnet.sweeps import local as pool
from lightning_resnet.sweeps.points import read
from lightning_resnet.sweeps.state import assign_runs

COMMAND = [
    "${env}",
    "resnet-cli",
    "fit",
    "--config",
    "recipe.yaml",
    "--config",
    "${args_json_file}",
]


def run_sweep(file, jobs=2):
    sweep = read(file)
    assign_runs(sweep, "runs")
    return pool.run_points(sweep, Path("runs"), jobs, main=train)
