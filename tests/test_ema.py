"""The average follows its definition, is measured next to the net, continues bitwise, and stays out
of other runs.
"""

import json
import shutil
from copy import deepcopy

import pytest
import torch
from helpers.command_line import TINY
from helpers.faults import Stop, dies_at_step
from helpers.run_dir import only_run, rows, unlabelled, weights
from torch import nn

from lightning_resnet.models import CifarResNet
from lightning_resnet.training.ema import Averaging, average_of, update

AVERAGED = [
    *TINY,
    "--trainer.max_epochs",
    "2",
    "--data.train_eval_samples",
    "64",
    "--model.ema",
    "{decay: 0.9, every: 2, start: 0.2}",
]


def test_the_average_is_the_sum_of_its_definition():
    torch.manual_seed(0)
    net, options = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double(),
        Averaging(0.9, every=2, start=0.25),
    )
    average, expected, total = average_of(net), deepcopy(net.state_dict()), 40
    assert not any(p.requires_grad for p in average.parameters()) and net[0].weight.requires_grad
    for step in range(1, total + 1):
        with torch.no_grad():
            for p in net.parameters():
                p.add_(torch.randn_like(p))
        net(torch.randn(8, 3, 5, 5).double())
        options.follow(average, net, step, total)
        if step % 2 == 0:
            decay = 0 if step <= 10 else 0.9
            expected = {
                k: decay * expected[k] + (1 - decay) * t if t.is_floating_point() else t.clone()
                for k, t in net.state_dict().items()
            }
    for name, tensor in average.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-12)
    assert average[1].num_batches_tracked == total


def test_decay_zero_is_the_net_itself():
    net = CifarResNet(8, width=4)
    average = average_of(net)
    with torch.no_grad():
        net.fc.weight.add_(1)
    update(average, net, 0.0)
    assert all(
        torch.equal(a, b)
        for a, b in zip(average.state_dict().values(), net.state_dict().values(), strict=True)
    )


def test_both_nets_are_measured_and_saved(cli):
    """val_ema, recomputed by hand from the checkpoint's `ema.`; the raw net is that of a run
    without an average.
    """
    assert cli("fit", *AVERAGED)[0] == 0
    path = only_run()
    last = rows(path)[-1]
    assert {
        f"{s}/{m}" for s in ("val", "val_ema", "train_eval") for m in ("loss", "acc1", "acc5")
    } <= last.keys()
    assert not [k for k in last if k.startswith("train_eval_ema")]
    from lightning_resnet.data.sources.digits import Digits

    images, found = Digits().splits()["val"], {}
    x = torch.from_numpy(images.pixels).permute(0, 3, 1, 2).expand(-1, 3, -1, -1) / 255
    x = (x - torch.tensor(Digits.mean).view(3, 1, 1)) / torch.tensor(Digits.std).view(3, 1, 1)
    for split, prefix in (("val", "net."), ("val_ema", "ema.")):
        net = CifarResNet(8, width=4)
        net.load_state_dict(weights(path, prefix))
        with torch.no_grad():
            found[split] = (
                (net.eval()(x).argmax(1) == torch.from_numpy(images.labels)).double().mean().item()
            )
        assert last[f"{split}/acc1"] == pytest.approx(found[split], abs=1e-9)
    assert last["val_ema/loss"] != last["val/loss"]
    averaged = weights(path, "net.")
    code, out, _ = cli("validate", *AVERAGED)
    assert code == 0 and json.loads(out)["val_ema/acc1"] == last["val_ema/acc1"]
    shutil.rmtree("runs")
    assert cli("fit", *AVERAGED[:-2])[0] == 0
    plain = weights(only_run(), "net.")
    assert all(torch.equal(averaged[k], plain[k]) for k in plain) and not weights(
        only_run(), "ema."
    )


def test_an_average_continues_bitwise(cli):
    assert cli("fit", *AVERAGED)[0] == 0
    path = only_run()
    complete, expected = (
        weights(path, "ema."),
        [(r["step"], r["val_ema/loss"]) for r in rows(path) if "val_ema/loss" in r],
    )
    shutil.rmtree("runs")
    with dies_at_step(30), pytest.raises(Stop):
        cli("fit", *AVERAGED)
    code, out, _ = cli("fit", *AVERAGED)
    assert code == 0 and "continued from" in out
    assert all(torch.equal(complete[k], t) for k, t in weights(only_run(), "ema.").items())
    assert [(r["step"], r["val_ema/loss"]) for r in rows(path) if "val_ema/loss" in r] == expected


def test_runs_with_and_without_an_average_take_each_others_weights(cli):
    assert cli("fit", *AVERAGED, "--run.keep", "weights")[0] == 0
    checkpoint = only_run() / "checkpoints/last.ckpt"
    code, out, _ = cli("validate", *TINY, "--ckpt_path", checkpoint)
    assert code == 0 and "val_ema/acc1" not in json.loads(out)
    from_average = [
        "--run.init_from",
        checkpoint,
        "--run.name",
        "next",
        "--model.ema",
        "{decay: 0.9, every: 99}",
    ]
    assert cli("fit", *TINY, "--trainer.max_epochs", "1", *from_average)[0] == 0
    (path,) = (p.parent for p in unlabelled(checkpoint.parents[3].glob("next/*/meta.json")))
    begun = weights(path, "ema.")  # no update was due: it is what it began as, the other run's net
    assert all(torch.equal(begun[k], t) for k, t in weights(checkpoint.parents[1], "net.").items())


@pytest.mark.parametrize("bad", ["{decay: 1.0}", "{every: 0}", "{start: 2.0}"])
def test_an_average_that_never_moves_is_refused(cli, bad):
    code, _, err = cli("fit", *TINY, "--model.ema", bad)
    assert (
        code == 2 and "error: --model.ema." in err and " must be a " in err and err.count("\n") == 1
    )
