"""`compare --published`: errors of papers and reproductions next to runs, and what differs."""

import csv
import json

import pandas as pd
import pytest
from helpers.command_line import verb
from helpers.made_runs import epoch_rows, make_run

from lightning_resnet.analysis.compare import published
from lightning_resnet.analysis.compare.load import load_runs
from lightning_resnet.analysis.compare.report import View, report, select
from lightning_resnet.analysis.compare.tables import summary, to_cells
from lightning_resnet.cli import compare as command
from lightning_resnet.cli import export
from lightning_resnet.errors import UserError
from lightning_resnet.runs.reference import _public, _without_folders

main = verb(command)
NET = {"width": 16, "block": "basic", "norm": "batch", "num_classes": 10}
STEPS = {"class_path": "lightning_resnet.Steps", "init_args": {"at": [0.5, 0.75], "warmup": 0.0}}
FILES = {
    "class_path": "lightning_resnet.BetonFiles",
    "init_args": {"train": "/data/of/mine/train.beton", "val": "/data/of/mine/val.beton"},
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


def train(path, depth, shortcut, epochs=164, seed=0, meta=None, **changed):
    """Make a run of the paper's training on CIFAR-10; `changed`: settings by their path in JSON."""
    make_run(
        path,
        seed=seed,
        net_args={"depth": depth, "shortcut": shortcut, **NET, **changed.pop("net_args", {})},
        batch_size=changed.pop("batch_size", 128),
        net=changed.pop("net", "lightning_resnet.CifarResNet"),
        rows=[{**epoch_rows(0, 10 + seed)[1], "step": 390 * epochs}],
    )
    config = json.loads((path / "config.yaml").read_text())
    config["trainer"]["max_epochs"] = epochs
    config["model"]["optimizer"]["init_args"] = {
        **{"lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4},
        **changed.pop("optimizer", {}),
    }
    config["model"] |= {"schedule": STEPS, "decay": "all"} | changed.pop("model", {})
    config["data"]["source"] = {
        "class_path": "lightning_resnet.CIFAR10",
        "init_args": {"root": "data", "holdout": 0},
    }
    config["data"] |= {"crop": "pad", "pad": 4, "flip": True} | changed.pop("data", {})
    assert not changed
    (path / "config.yaml").write_text(json.dumps(config))
    kept = json.loads((path / "meta.json").read_text())
    kept |= {"steps_per_epoch": 390, "train_samples": 50_000, "val_samples": 10_000}
    kept |= {"input_size": [3, 32, 32], "epochs": epochs} | (meta or {})
    (path / "meta.json").write_text(json.dumps(kept))
    return path


def differences(path, source, name="cifar10"):
    """Return what differs from one source's training: key -> (theirs, the run's)."""
    runs = load_runs(path).runs
    found = published.match(published.named(name), runs, ["depth", "shortcut"])
    (match,) = [each for each in found if each.result.source == source]
    return match.differs


def test_each_result_says_what_of_whom_and_under_which_training():
    for name, results in published.sets().items():
        for each in results:
            assert each.source and each.where and 0 < each.error < 100, (name, each)
            assert each.facts.keys() <= {*published.WORDS, *published.SAME, "steps"}, each
            assert each.data in published._file()["data"]
            assert "depth" in each.facts or name == "imagenette"
            assert (each.n is None) == (each.told == "n unknown")
    table = {
        (r.source, r.facts["depth"], r.facts["shortcut"]): r.cell
        for r in published.named("cifar10")
        if r.told != "best of 5"
    }
    assert table["He et al. 2015", 56, "A"] == "6.97"
    assert table["He et al. 2015", 110, "A"] == "6.61 ± 0.16"
    assert table["He et al. 2015", 110, "none"] == "above 60"
    assert table["nabla0001", 56, "none"] == "12.95 ± 0.22"
    pairs = {(r.facts["depth"], r.facts["block"]): r.error for r in published.named("he2016")}
    assert pairs[110, "preact"] == 6.37 and pairs[1001, "bottleneck"] == 27.82


def test_the_papers_value_stands_without_being_asked_for_next_to_its_training_only(tmp_path):
    train(tmp_path / "d/a", 20, "A")
    train(tmp_path / "d/b", 56, "none")
    train(tmp_path / "d/c", 56, "A", epochs=30)
    train(tmp_path / "d/e", 32, "A", batch_size=256)
    runs = load_runs(tmp_path / "d")
    rows = ["depth", "shortcut"]
    table = published.add_paper(summary(runs, rows).frame, runs.runs, rows)
    assert table["paper"].tolist() == ["8.75", "", "≈ 13 (figure)", ""]
    few = select(runs, "depth == 32")
    assert "paper" not in published.add_paper(summary(few).frame, few.runs, ["depth"])


@pytest.mark.parametrize(
    ("changed", "source", "told"),
    [
        ({}, "nabla0001", {"images": ("45,000 training images", "50,000 training images")}),
        ({}, "a-martyn", {"epoch": ("best epoch by test error", "last epoch")}),
        ({"epochs": 10}, "hhhhuangggg", {"epochs": ("64,000 steps", "10 epochs, 3,900 steps")}),
        ({"epochs": 10}, "a-martyn", {"epochs": ("164 epochs", "10 epochs, 3,900 steps")}),
        (
            {"meta": {"train_samples": 45_000, "val_samples": 5_000}},
            "a-martyn",
            {
                "images": ("50,000 training images", "45,000 training images"),
                "tested": ("error on 10,000 images", "error on 5,000 images"),
            },
        ),
        ({"batch_size": 64}, "a-martyn", {"batch": ("batch 128", "batch 64")}),
        ({"optimizer": {"lr": 0.2}}, "a-martyn", {"rate": ("rate 0.1", "rate 0.2")}),
        (
            {"optimizer": {"nesterov": True}},
            "a-martyn",
            {"nesterov": ("plain momentum", "Nesterov momentum")},
        ),
        ({"net_args": {"shortcut": "B"}}, "a-martyn", {"shortcut": ("option A", "option B")}),
        ({"net_args": {"width": 8}}, "a-martyn", {"width": ("width 16", "width 8")}),
        (
            {"model": {"label_smoothing": 0.1}},
            "a-martyn",
            {"extras": ("regularised by nothing", "regularised by label smoothing")},
        ),
        (
            {"model": {"schedule": {"class_path": "lightning_resnet.Cosine", "init_args": {}}}},
            "a-martyn",
            {"falls": ("rate falls at 50 and 75 %", "schedule Cosine")},
        ),
        (
            {"data": {"flip": False}},
            "a-martyn",
            {"augmentation": ("pad 4 and flip", "pad 4")},
        ),
        (
            {"data": {"source": FILES}, "meta": {"about": "JPEG copy of the images"}},
            "a-martyn",
            {"data": ("the images of CIFAR-10", "JPEG copy of the images")},
        ),
        (
            {"data": {"source": FILES}},
            "a-martyn",
            {"data": ("the images of CIFAR-10", "copy of the images (train.beton)")},
        ),
    ],
)
def test_each_difference_is_named_from_the_configuration(tmp_path, changed, source, told):
    path = train(tmp_path / "d/a", 20, "A", **changed)
    found = differences(path, source)
    assert told.items() <= found.items()
    always = {"images", "epoch"} if source == "nabla0001" else {"epoch", "pixels"}
    assert found.keys() <= {*told, *always}


def test_other_images_get_no_published_error(tmp_path, capsys):
    train(tmp_path / "d/a", 20, "A", data={"source": FILES}, meta={"train_samples": 1_437})
    train(tmp_path / "d/b", 56, "A", data={"source": FILES}, meta={"input_size": [3, 28, 28]})
    assert main(["d", "--published", "cifar10"]) == 0
    out = capsys.readouterr().out
    assert "No result in cifar10 for any row" in out and "He et al." not in out


def test_the_table_fits_a_terminal_and_csv_page_and_json_have_the_same(tmp_path, capsys, cli):
    for depth in (20, 56):
        for shortcut in ("none", "A"):
            for seed in range(2):
                train(tmp_path / f"d/{depth}{shortcut}{seed}", depth, shortcut, 10, seed)
    train(tmp_path / "d/9A", 9, "A", 10)
    assert main(["d", "--published", "cifar10", "--out", "out"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    head, _, *rows = [line for line in out.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in head.split("|")[1:6]] == [
        *("depth", "shortcut", "error, %", "paper", "others")
    ]
    assert [cell.strip() for cell in rows[2].split("|")[1:6]] == [
        *("20", "residual (A)", "10.50 ± 0.71", "8.75*", "7.37–8.51* (7)")
    ]
    unwrapped = " ".join(out.split())
    assert "| akamaster" in out and "The runs: 50,000 training images; 10 epochs" in unwrapped
    assert "No result in cifar10 for depth 9, residual (A)" in out
    with open("out/published.csv") as file:
        lines = [*csv.DictReader(file)]
    (line,) = [x for x in lines if x["source"] == "nabla0001" and x["net"] == "plain-56"]
    assert (line["error"], line["spread"], line["n"]) == ("12.95", "0.22", "5")
    assert "45,000 training images (here 50,000 training images)" in line["differs"]
    assert "64,000 steps (here 10 epochs, 3,900 steps)" in line["differs"]
    with open("out/table.csv") as file:
        assert [row["paper"] for row in csv.DictReader(file)][1:3] == ["≈ 9 (figure)*", "8.75*"]
    assert "github.com/nabla0001/resnet" in (tmp_path / "out/index.html").read_text()
    words = ["--published", "cifar10", "--out", "out", "--json"]
    document = json.loads(cli("compare", "d", *words)[1])
    assert len(document["published"]) == len(lines)
    assert {"depth", "source", "error", "n", "differs"} <= document["published"][0].keys()


def test_a_shortcut_of_its_own_kind_goes_before_others(tmp_path):
    train(tmp_path / "d/a", 110, "C")
    runs = load_runs(tmp_path / "d").runs
    found = published.match(published.named("he2016"), runs, ["depth", "shortcut"])
    assert [each.result.error for each in found] == [12.22]
    others = published.match(published.named("cifar10"), runs, ["depth", "shortcut"])
    assert {m.differs["shortcut"] for m in others if "shortcut" in m.differs} == {
        *(("option A", "option C"), ("option B", "option C"))
    }


@pytest.mark.parametrize(
    ("net_args", "error", "told"),
    [
        ({"shortcut": "gate"}, "6.91", ()),
        ({"shortcut": "gate", "shortcut_value": 0}, "12.86", ()),
        ({"shortcut": "gate", "shortcut_value": -3}, None, ()),
        ({"shortcut": "exclusive_gate", "shortcut_value": -7}, "9.81", ()),
        ({"shortcut": "scaled"}, "above 20", ()),
        ({"shortcut": "scaled", "branch_scale": 0.5}, "12.35", ()),
        ({"shortcut": "C", "width": 8}, "12.22", ("width",)),
        ({"shortcut": "C", "init": "xavier"}, "12.22", ("init",)),
        ({"shortcut": "C", "init": "he_fan_in"}, "12.22", ()),
        ({"shortcut": "C", "stochastic_depth": 0.5}, "12.22", ("extras",)),
        ({"shortcut": "C", "drop_blocks": ["layer1.1"]}, "12.22", ("dropped",)),
        ({"shortcut": "C", "drop_blocks": 5}, "12.22", ()),
        ({"shortcut": "none", "norm": "none", "activation": "tat"}, "above 20", ("activation",)),
        ({"block": "bn_after_add"}, "8.17", ()),
        ({"block": "single"}, "9.90", ()),
        ({"block": "preact", "zero_last": True}, "6.37", ("init",)),
    ],
)
def test_variants_stand_next_to_their_own_figure_or_say_what_differs(
    tmp_path, net_args, error, told
):
    args = {"shortcut": "A", "init": "he", "width": 16} | net_args
    warmup = {"class_path": "lightning_resnet.ErrorWarmup", "init_args": {"then": STEPS}}
    train(tmp_path / "d/a", 110, args["shortcut"], net_args=args, model={"schedule": warmup})
    runs = load_runs(tmp_path / "d").runs
    found = published.match(published.named("he2016"), runs, ["depth", "shortcut"])
    assert [each.result.cell for each in found] == ([error] if error else [])
    always = {"start", "pixels"}
    if net_args.get("norm"):
        always.add("norm")
    for each in found:
        assert each.differs.keys() == {*always, *told}, each.differs


def test_another_optimizer_is_named(tmp_path):
    path = train(tmp_path / "d/a", 20, "A")
    config = json.loads((path / "config.yaml").read_text())
    config["model"]["optimizer"]["class_path"] = "lightning_resnet.ConvMuon"
    (path / "config.yaml").write_text(json.dumps(config))
    assert differences(path, "akamaster")["optimizer"] == ("optimizer SGD", "optimizer ConvMuon")


def test_stochastic_depth_stands_next_to_its_papers_training(tmp_path):
    recipe = {"epochs": 500, "optimizer": {"nesterov": True}}
    args = {"init": "he_fan_in", "stochastic_depth": 0.5}
    meta = {"train_samples": 45_000, "val_samples": 5_000, "steps_per_epoch": 351}
    train(tmp_path / "d/a", 110, "A", meta=meta, net_args=args, **recipe)
    runs = load_runs(tmp_path / "d").runs
    found = published.match(published.named("cifar10"), runs, ["depth", "shortcut"])
    differs = {m.result.error: m.differs for m in found if m.result.source == "Huang et al. 2016"}
    assert differs[6.41].keys() - differs[5.25].keys() == {"extras"}
    assert differs[5.25]["tested"] == ("error on 10,000 images", "error on 5,000 images")


def test_imagenet_and_imagenette_are_known_by_their_numbers(tmp_path):
    images = {"train_samples": 1_281_167, "val_samples": 50_000, "input_size": [3, 224, 224]}
    net = {"net": "lightning_resnet.ImageNetResNet"}
    net_args = {"num_classes": 1000}
    data = {"source": FILES, "crop": "resized", "size": 224}
    path = tmp_path / "a/x"
    train(path, 50, "B", 90, meta=images, data=data, net_args=net_args, **net)
    config = json.loads((path / "config.yaml").read_text())
    del config["model"]["net"]["init_args"]["block"]  # it goes by depth
    (path / "config.yaml").write_text(json.dumps(config))
    found = differences(path, "torchvision V1", "imagenet")
    assert "epochs" not in found and found["batch"] == ("batch 256", "batch 128")
    runs = load_runs(path).runs
    papers = published.match(published.named("imagenet"), runs, ["depth"])
    assert {m.result.error: m.differs["crops"] for m in papers if m.result.paper} == {
        22.85: ("ten crops", "one crop"),
        20.74: ("several scales", "one crop"),
    }
    few = {"train_samples": 9_469, "val_samples": 3_925, "input_size": [3, 128, 128]}
    path = train(tmp_path / "b/x", 18, "B", 20, meta=few, data={"source": FILES}, **net)
    runs = load_runs(path).runs
    (match,) = published.match(published.named("imagenette"), runs, ["depth"])
    assert match.result.cell == "8.43" and match.result.told == "mean of 5"
    assert match.differs["net"] == ("net fastai2's with MaxBlurPool", "net ResNet-18")
    assert "data" not in match.differs
    assert published.unmatched("imagenette", [match], runs, ["depth"], ["depth"]) == []
    path = train(tmp_path / "c/x", 18, "B", 10, meta=few, data={"source": FILES, "size": 64}, **net)
    keys = (load_runs(path).runs, ["depth"], ["depth"])
    (note,) = published.unmatched("imagenette", [], *keys)
    assert note.endswith("trainings on Imagenette, and none of 64 px and 10 epochs.")
    (note,) = published.unmatched("cifar10", [], *keys)
    assert note.endswith("it has nets and trainings on CIFAR-10.")


def test_a_net_without_published_results_is_named(tmp_path):
    runs = load_runs(train(tmp_path / "a/x", 26, "A")).runs
    (note,) = published.unmatched("cifar10", [], runs, ["depth"], ["depth"])
    assert note.endswith("on CIFAR-10, and none of ResNet-26 of basic blocks.")


def test_without_a_name_the_sets_are_listed_and_an_unknown_name_gets_the_nearest(capsys, cli):
    assert main(["--published"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[1] for line in out.splitlines()[2:] if line[2] != " "] == [
        *("cifar10", "he2016", "cifar100", "imagenet", "imagenette")
    ]
    document = json.loads(cli("compare", "--published", "--json")[1])
    assert document["published"][0]["name"] == "cifar10"
    with pytest.raises(UserError, match="did you mean cifar10?"):
        report(["nowhere"], view=View(published="cifar-10"))


def test_three_runs_become_a_reference_without_weights_folders_and_host(tmp_path, capsys):
    host = {"attempt": 1, "reason": "finished", "seconds": 3.0, "heartbeat": 1.0, "error": None}
    for seed in range(3):
        path = train(tmp_path / f"runs/mine/{seed}", 20, "A", 10, seed, data={"source": FILES})
        (path / "checkpoints").mkdir()
        (path / "checkpoints/last.ckpt").write_bytes(b"weights")
        attempt = json.dumps(host | {"host": "node7", "job_id": "1234"})
        (path / "attempts/1.json").write_text(attempt)
        meta = json.loads((path / "meta.json").read_text())
        meta["command"] = ["resnet-cli", "fit", "--data.source.train=/data/of/mine/train.beton"]
        (path / "meta.json").write_text(json.dumps(meta))
    words = ["--reference", "reference/cifar10_jpeg", "--about", "JPEG copy of the images"]
    assert verb(export)(["runs/mine", *words]) == 0
    assert "resnet-cli compare RUNS reference/cifar10_jpeg" in capsys.readouterr().out
    texts = ""
    for file in sorted((tmp_path / "reference").rglob("*")):
        assert file.is_dir() or file.suffix in (".yaml", ".json", ".jsonl")
        texts += file.read_text() if file.is_file() else ""
    assert "/data/of" not in texts and "node7" not in texts and "1234" not in texts
    assert texts.count("--data.source.train=train.beton") == 3
    train(tmp_path / "runs/other/a", 20, "A", 10, data={"source": FILES})
    made = report(["runs/other", "reference/cifar10_jpeg"], "out", View(published="cifar10"))
    names = [row[:1] + row[-1:] for row in to_cells(made.table)]
    assert made.table.frame["n"].tolist() == [3, 1] and names[0][0] == "name"
    assert "cifar10_jpeg: JPEG copy of the images." in made.table.notes


def test_a_reference_has_values_replaced_and_no_parts_of_others():
    recipe = """# trained from /data
data:
  root: /data
  /data: kept
  train: "/data/a b/t.beton"  # /data/a b/t.beton
  val: ['/data/v.beton', x/data/y, 3]
  flag: --out=/data/of/mine/x
  url: s3://data/data
  odd: /data/3
  text: |
    /data/of/mine/z
last: /data/z
"""
    assert (
        _without_folders(recipe)
        == """# trained from /data
data:
  root: data
  /data: kept
  train: "t.beton"  # /data/a b/t.beton
  val: ["v.beton", x/data/y, 3]
  flag: --out=x
  url: s3://data/data
  odd: "3"
  text: "z\\n"
last: z
"""
    )


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ('--data.source={"class_path": "F", "init_args": {"root": "/home/ann/photos"}}', "photos"),
        ("{class_path: F, init_args: {root: ../../ann/photos}}", '"root": "photos"'),
        ("--out=../../ann/x", "--out=x"),
        ("runs/../../ann/x", "x"),
        ("file:///home/ann/x", "x"),
        ("--data.source.root=/home/ann", "--data.source.root=-"),
        ("file:///home/ann/", "-"),
        ("/Users/ann", "-"),
        ("~ann/p", "p"),
        ("~ann", "-"),
        ("s3://ann@host/b", "s3://-/b"),
        ("ann@host:/home/ann/photos", "-"),
    ],
)
def test_a_reference_tells_no_user_and_no_host(given, kept):
    shown = _public({"command": ["fit", given]})["command"][1]
    assert kept in shown and "ann" not in shown and "host" not in shown and "/home" not in shown


@pytest.mark.parametrize(
    "text", ["/", "s3://data/data", "configs/digits.yaml", "[a-z]{2", "{a: [1, x/y]}", "a~b", ".."]
)
def test_a_reference_keeps_other_texts(text):
    assert _public([text]) == [text]


def test_a_reference_tells_no_process():
    assert _public({"process": {"pid": 7}, "attempt": 1}) == {"process": {}, "attempt": 1}


def test_two_runs_of_one_id_are_no_reference_and_a_second_copy_replaces_the_first(tmp_path):
    for name in "ab":
        make_run(tmp_path / "runs" / name / "0123456789")
    (tmp_path / "runs/c").mkdir()
    (tmp_path / "runs/c/0123456789").symlink_to("../a/0123456789")
    with pytest.raises(UserError, match="have one id, .*: name one of them"):
        verb(export)(["runs/a", "runs/b", "--reference", "set"])
    with pytest.raises(UserError, match="runs/a holds runs/a/0123456789 itself"):
        verb(export)(["runs/a", "--reference", "runs/a"])
    assert not (tmp_path / "set").exists()
    assert verb(export)(["runs/a", "runs/c", "--reference", "set"]) == 0, "one run, and a link"
    (tmp_path / "set/0123456789/attempts/2.json").write_text("{}")
    assert verb(export)(["runs/b", "--reference", "set"]) == 0
    assert [file.name for file in (tmp_path / "set/0123456789/attempts").iterdir()] == ["1.json"]


def test_what_a_reference_cannot_be_written_to_is_told_with_its_flag(tmp_path):
    make_run(tmp_path / "runs/a/0123456789")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="give --reference DIR with a folder that you can write"):
        verb(export)(["runs/a", "--reference", "file/set"])


def test_a_reference_is_made_of_finished_runs_only(tmp_path):
    make_run(tmp_path / "runs/mine/a")
    make_run(tmp_path / "runs/mine/b", reason="preempted")
    with pytest.raises(UserError, match="b has not finished .*run its command again"):
        verb(export)(["runs/mine", "--reference", "new"])
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match="add --reference"):
        verb(export)(["runs/mine", "--about", "x"])


def test_a_reference_has_no_strays_and_no_half_of_a_set(tmp_path):
    for name in "ab":
        done = {"attempt": 2, "reason": "finished", "seconds": 3.0, "heartbeat": 1.0}
        run = make_run(tmp_path / "runs/mine" / name, attempts=[{}, done])
        (run / "attempts/._1.json").write_bytes(b"\0\5\x16\7")
        (run / "attempts/1.json").write_text("{")  # torn
    assert verb(export)(["runs/mine", "--reference", "new"]) == 0
    kept = sorted(path.name for path in (tmp_path / "new/a").rglob("*") if path.is_file())
    assert kept == ["2.json", "config.yaml", "meta.json", "metrics.jsonl"]
    (tmp_path / "runs/mine/b/meta.json").write_text("{")
    with pytest.raises(UserError, match="b/meta.json"):
        verb(export)(["runs/mine", "--reference", "other"])
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("schedule", "name", "value"),
    [
        ("Steps", "at", 0.5),
        ("Steps", "at", "[a, b"),
        ("Steps", "at", '["half"]'),
        ("ErrorWarmup", "factor_before", "x"),
        ("Linear", "warmup", "x"),
        ("Linear", "warmup_epochs", "[1]"),
    ],
)
def test_arguments_of_another_type_are_taken_as_unknown(schedule, name, value):
    run = pd.Series(
        {
            "model.schedule.class_path": f"lightning_resnet.{schedule}",
            f"model.schedule.init_args.{name}": value,
            "model.net.init_args.drop_blocks": "[",
            "lr": 0.1,
        }
    )
    assert published._falls(run) == schedule and published._dropped(run) == 0
    starts = {"ErrorWarmup": "rate 0.01 until the training error is below 80 %"}
    assert published._start(run) == starts.get(schedule, "no warm-up")


@pytest.mark.parametrize("argument", [("at", "0.5"), ("warmup", "auto"), ("warmup_epochs", "x")])
def test_arguments_of_a_users_own_schedule_are_not_read(argument):
    name, value = argument
    run = pd.Series(
        {
            "model.schedule.class_path": "mine.Slowly",
            f"model.schedule.init_args.{name}": value,
        }
    )
    assert published._falls(run) == "Slowly" and published._start(run) == "as Slowly says"
