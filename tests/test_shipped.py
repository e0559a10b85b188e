"""Recipes, sweeps, measured runs and batch scripts come with the package and are found by name,
wherever one is.
"""

import json
from pathlib import Path

import pytest
import yaml
from helpers.command_line import REPOSITORY

from lightning_resnet import shipped
from lightning_resnet.analysis.inspection.subjects import subjects
from lightning_resnet.config.recipe import parse
from lightning_resnet.errors import UserError
from lightning_resnet.runs.find import locate
from lightning_resnet.runs.identity import run_id
from lightning_resnet.sweeps.points import read


def test_the_list_names_every_file_with_what_it_is_for(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = cli("recipes")
    assert code == 0
    for file in (REPOSITORY / "configs").rglob("*.yaml"):
        name = file.relative_to(REPOSITORY / "configs").with_suffix("").as_posix()
        line, *_ = [
            text for text in out.splitlines() if text.split()[:1] == [name.removeprefix("sweeps/")]
        ]
        assert len(line.split()) > 3 and "..." not in line, line
    assert max(map(len, out.splitlines())) <= 80
    for name in ("digits         12 runs of digits_degradation", "fit.sbatch", "site.env.example"):
        assert name in out


def test_the_list_as_json(cli):
    code, out, _ = cli("recipes", "--json")
    found = json.loads(out)
    assert code == 0 and set(found) == {"recipes", "sweeps", "measured runs", "batch scripts"}
    assert found["recipes"].keys() == shipped.recipes().keys()
    code, _, err = cli("recipes", "digits", "--json")
    assert code == 2 and "--json is for the list of all recipes" in err


def test_no_recipe_has_the_name_of_a_sweep():
    assert not shipped.recipes().keys() & shipped.sweeps().keys()


@pytest.mark.parametrize(
    "name", ["digits", "imagenet/ffcv", "sweeps/digits_gap", "digits_gap", "configs/digits.yaml"]
)
def test_a_recipe_can_be_printed_to_copy_it(cli, name):
    code, out, _ = cli("recipes", name)
    assert code == 0 and out == shipped.recipe_file(name).read_text()


def test_a_name_that_is_not_there_gets_the_nearest(cli):
    code, _, err = cli("recipes", "digitz")
    assert code == 2 and "there is no recipe digitz; did you mean digits?" in err
    code, _, err = cli("fit", "--config", "digitz")
    assert code == 2 and "did you mean digits?" in err
    with pytest.raises(
        UserError, match="there is no reference:cifar10; there are reference:digits"
    ):
        locate("reference:cifar10")


def test_a_name_is_the_run_that_the_file_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = []
    for word in (REPOSITORY / "configs/digits.yaml", "digits", "configs/digits.yaml"):
        config = parse("fit", ["--config", str(word)])
        found.append((config.run.name, run_id(yaml.safe_load(config.resolved))))
    assert found[0] == found[1] == found[2]


def test_a_file_of_that_name_here_goes_before_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shipped.recipe_file("photos") == REPOSITORY / "configs/photos.yaml"
    Path("photos").mkdir()  # a folder is no recipe
    assert shipped.recipe_file("photos") == REPOSITORY / "configs/photos.yaml"
    Path("photos.yaml").touch()
    assert shipped.recipe_file("photos") == Path("photos.yaml")
    Path("digits").touch()
    assert shipped.recipe_file("digits") == Path("digits")
    assert shipped.recipe_file("nothing") == Path("nothing")


def test_a_sweep_of_ours_runs_anywhere_as_in_the_repository(tmp_path, monkeypatch):
    file = REPOSITORY / "configs/sweeps/digits_degradation.yaml"
    monkeypatch.chdir(REPOSITORY)
    there = read(file)
    monkeypatch.chdir(tmp_path)
    here = read("digits_degradation")
    assert [p.key for p in here.points] == [p.key for p in there.points]
    assert here.name == there.name and here.recipes == there.recipes


def test_inspect_takes_the_name_of_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (subject,) = subjects(["digits"], ["--model.net.depth", "8"])
    assert subject.path == Path("digits") and subject.settings["depth"] == 8
