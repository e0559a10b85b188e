"""Readable links next to run ids: made when a run starts, and never read as a second run."""

import os
from pathlib import Path
from threading import Thread

import pytest
from helpers.command_line import TINY
from helpers.made_runs import make_run
from helpers.run_dir import only_run

from lightning_resnet.analysis.compare.load import load_runs
from lightning_resnet.runs.find import begun_runs, described_runs, find_runs
from lightning_resnet.runs.labels import LONGEST, label_of, labels_in, link_label, links_to

ONE_STEP = [
    *TINY,
    *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"),
    *("--trainer.limit_val_batches", "1"),
]


@pytest.mark.parametrize(
    "settings, label",
    [
        ({"model.net.depth": 56, "model.net.shortcut": "none", "seed_everything": 1}, None),
        ({"model.net.depth": "56", "model.net.shortcut": "none", "seed_everything": "1"}, None),
        ({"seed_everything": 1, "model.net.shortcut": "none", "model.net.depth": 56}, None),
        (
            {"data.source.train": "/d/train.beton", "data.size": 32, "model.optimizer.lr": 0.1},
            "lr0.1-train.beton-size32",
        ),
        ({}, "recipe"),
        ({"model.optimizer": "torch.optim.SGD", "model.optimizer.nesterov": False}, "SGD-nester"),
        ({"data.source.root": "../a b;c/\n"}, "recipe"),
        ({"trainer.max_epochs": 3, "x": "points"}, "max_epochs3-points"),
        ({"x": "points"}, "run-points"),
        ({"x": "4df5017e32"}, "run-4df5017e32"),
        ({"run.init_from": "runs/a/4df5017e32/checkpoints/last.ckpt"}, "from-4df5017e32"),
    ],
)
def test_a_label_names_what_was_given_in_safe_characters(settings, label):
    assert label_of(settings).startswith(label or "depth56-none-seed1")


def test_a_label_is_bounded_and_tells_the_replicate():
    long = label_of({f"k{i}": i for i in range(99)}, replicate=3)
    assert len(long) <= LONGEST and long.endswith("-replicate3")
    assert label_of({"a": 1}, asked="../x/ y") == "x-y"


def test_a_long_setting_does_not_hide_a_short_one():
    settings = {
        "model.net.depth": 20,
        "trainer.max_epochs": 2,
        "trainer.limit_train_batches": 100,
        "trainer.accumulate_grad_batches": 2,
        "data.batch_size": 32,
    }
    label = label_of(settings)
    assert label == "depth20-max_epochs2-limit_train_batches100-batch_size32"
    assert len(label) <= LONGEST


def test_a_run_gets_a_link_with_a_readable_name(cli):
    assert cli("fit", "--seed_everything", 1, "--data.workers", 0, *ONE_STEP)[0] == 0
    run = only_run()
    (label,) = labels_in(run.parent).values()
    assert label == "depth8-max_epochs1-width4-limit_train_batches1-seed1", "no word is cut"
    assert os.readlink(run.with_name(label)) == run.name
    assert cli("fit", *ONE_STEP, "--seed_everything", 1, "--run.label", "other")[0] == 0
    assert len(labels_in(run.parent)) == 1, "a run has one readable name"


def test_an_inspection_names_runs_by_their_readable_names(cli, tmp_path):
    args = [*TINY, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]
    assert cli("fit", *args)[0] == 0
    code, out, err = cli(
        "inspect", "shortcuts", only_run(), "--at", "init", "--model.net.shortcut", "B"
    )
    label = next(iter(labels_in(only_run().parent).values()))
    assert code == 0 and f"inspected 1: {only_run()} ({label}), init\n" in out, err


def test_readers_count_a_run_once(sweep):
    for n, run in enumerate(sorted(sweep.iterdir())):
        link_label(run, f"00{n}")  # sorts before the runs
    found = [*find_runs([sweep])]
    assert len(found) == 12 and not any(path.is_symlink() for path in found)
    assert len([*described_runs(sweep)]) == len([*begun_runs(sweep)]) == 12
    assert len([*described_runs(sweep.parent, "*/*")]) == 12
    assert len(load_runs(sweep).runs) == 12
    assert load_runs(sweep / "000").runs["run_id"].tolist() == ["20A0"], "a link may be given"


def test_a_name_of_another_run_gets_the_id_and_a_stale_one_is_replaced(tmp_path):
    first, second = (make_run(tmp_path / "s" / name) for name in ("0000000001", "0000000002"))
    (tmp_path / "s" / "folder").mkdir()
    for _ in range(2):
        link_label(first, "name")
        link_label(second, "name")
    assert labels_in(first.parent) == {first.name: "name", second.name: f"name-{second.name}"}
    (tmp_path / "s" / "stale").symlink_to("gone")
    third = make_run(tmp_path / "s" / "0000000003")
    link_label(third, "stale")
    assert labels_in(first.parent)[third.name] == "stale"
    fourth = make_run(tmp_path / "s" / "0000000004")
    link_label(fourth, "folder")
    assert labels_in(first.parent)[fourth.name] == f"folder-{fourth.name}"


def test_runs_that_start_at_the_same_time_all_get_a_name(tmp_path):
    runs = [make_run(tmp_path / "s" / f"{n:010}") for n in range(8)]
    threads = [Thread(target=link_label, args=(run, "name")) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {*labels_in(tmp_path / "s")} == {run.name for run in runs}


def test_without_links_a_run_has_its_id_alone(tmp_path, monkeypatch):
    run = make_run(tmp_path / "s" / "0000000001")

    def refuse(self, target):
        raise PermissionError(1, "Operation not permitted", str(self))

    monkeypatch.setattr(Path, "symlink_to", refuse)
    link_label(run, "name")
    assert [path.name for path in run.parent.iterdir()] == [run.name]


def test_a_folder_that_another_rank_has_still_to_make_has_no_links(tmp_path):
    assert links_to(tmp_path / "digits" / "4df5017e32") == []
