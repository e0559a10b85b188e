"""`inspect why` says of two nets what their numbers say, and tells what could not be measured."""

import json
import math
import re
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.command_line import DIGITS, TINY

from lightning_resnet.analysis.inspection import why as module
from lightning_resnet.analysis.inspection.subjects import subjects
from lightning_resnet.analysis.inspection.trajectory import trajectory
from lightning_resnet.analysis.inspection.why import (
    BEFORE,
    CANNOT,
    CLAIMS,
    FOLLOWED,
    Pair,
    cells,
    course,
    judge,
    pairs,
    write,
)
from lightning_resnet.errors import UserError
from lightning_resnet.models import CifarResNet
from lightning_resnet.runs.find import begun_runs

NAMES = ["one", "two"]
SMALL = ["--images", 20, "--points", 3, "--draws", 1, "--batches", 2]
CAUSES = re.compile(r"\b(because|therefore|causes?|due to|reason|explains?|leads? to)\b")


def said(claim, first, second):
    """Return what a claim says of numbers of nets, one for each seed."""
    return judge(claim, "end", NAMES, np.array(first), np.array(second))


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.kind}-{claim.key}")
def test_the_numbers_decide_what_is_said(claim):
    least = claim.factor or claim.points
    if not least:
        assert said(claim, [math.nan], [0.7]).larger == ""
        return
    high = 0.3 * claim.factor if claim.factor else 0.3 + claim.points
    above = said(claim, [high * 1.01], [0.3])
    assert above.larger == "a" and claim.more.format(more="one", less="two") in above.sentence
    below = said(claim, [0.3], [high * 1.01])
    assert below.larger == "b" and claim.more.format(more="two", less="one") in below.sentence
    near = said(claim, [(high + 0.3) / 2], [0.3])
    assert near.larger == "alike" and "no difference" in near.sentence
    assert said(claim, [high * 1.01, 0.2], [0.3, 0.1]).larger == "alike"  # ranges overlap
    missing = said(claim, [math.nan], [0.3])
    assert missing.larger == "" and "none in one" in missing.sentence
    for verdict in (above, below, near, missing):
        assert not CAUSES.search(verdict.sentence)


def pair_of(*ats, names=("one", "two"), recipes=()):
    """Return a pair of nets at these checkpoints, init without weights."""
    nets = []
    for i, at in enumerate(ats):
        foreign = None if i in recipes else "a run"
        state = None if at == "init" else {}
        settings = {"source": "Digits"}
        nets.append([SimpleNamespace(at=at, state=state, foreign=foreign, settings=settings)])
    return Pair(list(names), list(names), nets, "depth (8 and 14)")


@pytest.mark.parametrize(
    ("ats", "state", "head"),
    [
        (("last", "last"), "after training", "a, after"),
        (("best", "best"), "at the best epoch", "a, at the best epoch"),
        (("epoch_3", "epoch_3"), "at epoch_3", "a, at epoch_3"),
        (("last", "best"), "after training and at the best epoch", None),
    ],
)
def test_the_state_is_that_of_the_checkpoints(ats, state, head):
    pair = pair_of(*ats)
    pair.frames["end"] = {}
    assert module._state(pair, "end") == state
    assert cells(pair, ["end"])[0][1] == (head or f"a, {state}")


@pytest.mark.parametrize(
    ("ats", "recipes", "told"),
    [
        (("init", "init"), (0, 1), "only a recipe was given, without weights"),
        (("init", "init"), (), "the net before training was asked for (--at init)"),
        (("last", "init"), (1,), "of two only a recipe was given, without weights"),
        (("init", "init"), (0,), "of one only a recipe was given, without weights; of two the net"),
    ],
)
def test_what_is_left_out_after_training_tells_the_true_reason(ats, recipes, told):
    assert module._why_untrained(pair_of(*ats, recipes=recipes)).startswith(told)


def test_names_have_no_effect_in_markdown(tmp_path):
    hostile = "lr <img src=x onerror=alert(1)>, [a](http://b)"
    pair = pair_of("last", "last", names=(hostile, "two"))
    pair.left_out.append(f"probes, after training: {hostile}")
    args = Namespace(images=1, batches=1, points=3, draws=1, folder=tmp_path)
    write([pair], args, "resnet-cli inspect why")
    text = (tmp_path / "why.md").read_text()
    assert text.count("\\<img") == text.count("<img") >= 3
    assert "](http" not in text


def test_each_kind_has_claims_and_says_what_it_cannot_say():
    assert {claim.kind for claim in CLAIMS} == set(CANNOT) >= set(BEFORE)
    assert not CAUSES.search(" ".join(CANNOT.values()))


def test_a_band_tells_of_each_net():
    claim = next(claim for claim in CLAIMS if claim.key == "first_last")
    sentence = said(claim, [0.01], [1.0]).sentence
    assert "one: the gradient shrinks" in sentence and "two: the gradient arrives" in sentence


def test_a_path_in_a_plane_lies_in_it_and_one_on_a_line_is_refused():
    net = CifarResNet(8, width=4)
    last = [p.detach().clone() for p in net.parameters()]
    one, two = ([torch.randn_like(p) for p in last] for _ in range(2))

    def at(x, y):
        return [p + x * a + y * b for p, a, b in zip(last, one, two, strict=True)]

    path = trajectory(net, {0: at(3, 0), 1: at(2, 1), 2: at(1, 1), 3: last})
    assert path.epochs == [0, 1, 2] and sum(path.explained) == pytest.approx(1)
    flat = [torch.cat([p.flatten() for p in part if p.dim() > 1]) for part in (at(3, 0), last)]
    assert path.places[0].norm().item() == pytest.approx((flat[0] - flat[1]).norm().item(), 1e-4)
    x, y = path.axes(11)
    assert 0 in x and 0 in y and len(x) == len(y) == 11
    assert min(x) <= path.places[:, 0].min() and max(x) >= path.places[:, 0].max()
    with pytest.raises(UserError, match="two epochs or more"):
        trajectory(net, {0: at(2, 0), 1: at(1, 0)})


def sweep(**parameters):
    """Write a sweep, `s.yaml`, of nets that are compared before training."""
    content = {"method": "grid", "parameters": {k: {"values": v} for k, v in parameters.items()}}
    content["command"] = ["resnet-cli", "fit", "--config", DIGITS, "--config", "${args_json_file}"]
    Path("s.yaml").write_text(json.dumps(content))
    return ["inspect", "why", "s.yaml", *TINY[2:], *SMALL, "--data.train_eval_samples", 40]


def test_nets_of_one_class_keep_their_own_names(cli):
    sweep(**{"model.net": ["torchvision.models.resnet18", "torchvision.models.resnet34"]})
    flags = ["--model.net.num_classes", "10", "--run.threads", "1"]
    found = subjects(["s.yaml"], flags, "init", 1)
    assert [subject.settings["net"] for subject in found] == ["resnet18", "resnet34"]


@pytest.mark.slow
def test_untrained_twins_are_compared_before_training_alone(cli):
    code, out, err = cli(*sweep(**{"model.net.shortcut": ["A", "none"]}), "--out", "o", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert {row["at"] for row in found["rows"]} == {"init"}
    assert "after training: only a recipe was given" in " ".join(found["left_out"])
    assert "residual (A) against depth 8, plain" in found["title"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"seed_everything": [0, 1]}, "two different nets"),
        ({"model.net.width": [4, 5, 6]}, "no two differ in model.net.shortcut alone"),
    ],
)
def test_what_is_no_pair_is_refused_in_one_line(cli, parameters, message):
    words = sweep(**parameters)
    if "model.net.width" in parameters:
        at = words.index("--model.net.width")
        del words[at : at + 2]
    code, _, err = cli(*words)
    assert code == 2 and message in err and err.strip().count("\n") == 0


def test_nets_that_begin_with_weights_of_others_have_a_course_without_its_beginning():
    pair = pair_of("last", "last")
    pair.frames = {"epoch 2": {}, "end": {}}
    assert module._epochs(pair) == {2: "epoch 2"}
    assert course(pair)["epoch"].tolist() == [2, 2]
    pair.frames["init"] = {}
    assert module._epochs(pair) == {0: "init", 2: "epoch 2"}


def test_a_second_net_of_a_seed_is_left_out(capsys):
    nets = []
    for depth, seed in ((8, 0), (8, 1), (8, 0), (14, 0), (14, 1)):
        settings = {"depth": depth, "seed": seed, "at": "last"}
        nets.append(SimpleNamespace(settings=settings, path=f"run{len(nets)}"))
    (pair,) = pairs(nets)
    assert [[one.path for one in net] for net in pair.nets] == [["run0", "run1"], ["run3", "run4"]]
    assert "skipped run2: another net has these settings and this seed" in capsys.readouterr().out


@pytest.mark.slow
def test_runs_with_kept_epochs_are_compared_before_during_and_after(cli):
    flags = [*TINY, "--trainer.max_epochs", 2, "--trainer.limit_train_batches", 2]
    flags += ["--data.train_eval_samples", 40, "--run.keep_epochs", 1]
    for shortcut in ("A", "none"):
        code, _, err = cli("fit", *flags, "--model.net.shortcut", shortcut, "--run.name", shortcut)
        assert code == 0, err
    for folder in (Path("runs/A"), Path("runs/none")):
        (run,) = begun_runs(folder)
        assert list(run.kept_epochs()) == [1, 2]
    code, out, err = cli("inspect", "why", "runs/A", "runs/none", *SMALL, "--out", "o")
    assert code == 0, err
    assert "left out: shortcuts, after training: depth 8, plain: no shortcut" in " ".join(
        out.split()
    )
    table = pd.read_csv("o/why.csv")
    assert list(dict.fromkeys(table["at"])) == ["init", "epoch 1", "epoch 2", "end"]
    assert set(table["kind"]) == set(CANNOT)
    last = table[(table["at"] == "epoch 2") & (table["kind"] != "alignment")]
    end = table[table["at"] == "end"].set_index(["kind", "key"])
    for _, row in last.iterrows():  # epoch 2 is the last
        assert row["b"] == pytest.approx(
            end.loc[(row["kind"], row["key"])]["b"], rel=1e-3, nan_ok=True
        )
    page = Path("o/why.html").read_text()
    assert page.count("Cannot say: ") == len(BEFORE) + len(CANNOT)
    assert page.count(", during training</h2>") == len(FOLLOWED)
    assert "No sentence here names a cause" in page
    code, out, err = cli("inspect", "landscape", "runs/A", *SMALL[:4], "--trajectory", "--out", "o")
    assert code == 0 and "first component holds" in " ".join(out.split()), err
    assert pd.read_csv("o/landscape.csv")["epoch"].dropna().tolist() == [0, 1]
    code, _, err = cli("inspect", "landscape", "runs/A", "--trajectory", "--line")
    assert code == 2 and "leave out --line" in err
    assert cli("export", "runs/A", "--out", "a.tar.gz")[0] == 0
    assert "epoch-001.ckpt" in cli("export", "runs/A", "--out", "b.tar.gz")[1]
    code, out, err = cli("inspect", "landscape", DIGITS, *TINY[2:], "--trajectory")
    assert code == 2 and "--run.keep_epochs 1" in err


def test_keeping_epochs_leaves_the_id_and_none_keeps_nothing(cli):
    flags = [*TINY, "--trainer.max_epochs", 1, "--trainer.limit_train_batches", 1]
    cli("fit", *flags)
    cli("fit", *flags, "--run.new", "--run.keep_epochs", 1, "--run.keep", "none")
    first, second = sorted(run.path.name for run in begun_runs(Path("runs/digits")))
    assert second.startswith(first)  # a replicate, of the same id
    assert not list(Path("runs").glob("**/epoch-*.ckpt"))
    code, _, err = cli("fit", *flags, "--run.keep_epochs", 0)
    assert code == 2 and "keep_epochs" in err
