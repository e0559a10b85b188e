"""Linear CKA has the properties of its definition, on any net with blocks."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from helpers.command_line import DIGITS
from helpers.nets import Own, digits

from lightning_resnet.analysis.inspection.similarity import (
    ITSELF,
    centred,
    figure,
    grams,
    remarks,
    similarity,
    summarise,
)
from lightning_resnet.errors import UserError
from lightning_resnet.models import CifarResNet


def cka(x, y):
    return similarity({"x": centred(x)}, {"y": centred(y)})["cka"].item()


def test_cka_is_one_with_itself_and_does_not_see_rotation_shift_and_scale():
    torch.manual_seed(0)
    x = torch.randn(40, 12).double()
    rotation = torch.linalg.qr(torch.randn(12, 12).double())[0]
    found = [cka(x, x), cka(x, x @ rotation), cka(x, 3 * x), cka(x, x + 5)]
    print("CKA of X with X, rotated, scaled, shifted:", *[f"{value:.12f}" for value in found])
    assert found == pytest.approx([1, 1, 1, 1], abs=1e-9)
    stretched = cka(x, x * torch.linspace(0.1, 10, 12).double())
    assert stretched < 0.9


def test_unrelated_features_are_unlike_even_if_there_are_more_of_them_than_images():
    torch.manual_seed(0)
    found = [cka(torch.randn(30, 500), torch.randn(30, 500)) for _ in range(20)]
    assert abs(np.mean(found)) < 0.02


def test_cka_of_many_images_is_the_formula():
    torch.manual_seed(0)
    x = torch.randn(2000, 6).double()
    y = torch.randn(2000, 6).double() + x
    a, b = x - x.mean(0), y - y.mean(0)
    plain = (b.T @ a).norm() ** 2 / ((a.T @ a).norm() * (b.T @ b).norm())
    assert cka(x, y) == pytest.approx(plain.item(), abs=2e-3)


@pytest.mark.parametrize("net", [CifarResNet(20, "none"), Own()], ids=["plain", "own"])
def test_a_net_is_alike_itself_whatever_its_batches(net):
    images, labels = digits(40)
    found = grams(net.eval(), [(images[:30], labels[:30]), (images[30:], labels[30:])])
    pairs = similarity(found, grams(net, [(images, labels)]))
    assert list(found)[0] == "input" and list(found)[-1] == "logits"
    own = pairs[pairs["i"] == pairs["j"]]["cka"]
    assert np.allclose(own, 1, atol=1e-5) and (pairs["cka"] < 1 + 1e-5).all()


def test_nets_of_torchvision_are_measured():
    found = grams(torchvision.models.resnet18(num_classes=10).eval(), [digits(8, 32)])
    assert len(found) == 10 and all(torch.isfinite(gram).all() for gram in found.values())


def test_too_few_or_too_many_images_are_one_line(monkeypatch):
    with pytest.raises(UserError, match="4 images or more, and here are 3"):
        grams(Own().eval(), [digits(3)])
    monkeypatch.setattr("lightning_resnet.analysis.inspection.similarity.MOST_BYTES", 50_000)
    with pytest.raises(UserError, match="MB per image, .* --images [0-9]+ or fewer"):
        grams(Own().eval(), [digits(32)])


def test_the_images_that_a_refusal_names_find_room_with_their_matrices(monkeypatch):
    """Bytes of the outputs grow with the images, those of Gram matrices with the pairs."""
    monkeypatch.setattr("lightning_resnet.analysis.inspection.similarity.MOST_BYTES", 1_000_000)
    net = CifarResNet(8, width=1).eval()
    with pytest.raises(UserError, match="per pair of images: --images") as refused:
        grams(net, [digits(100)])
    most = int(str(refused.value).split()[-3])
    assert len(grams(net, [digits(most)])["logits"]) == most
    with pytest.raises(UserError, match=f"--images {most} or fewer"):
        grams(net, [digits(most + 1)])
    assert most**2 * 8 * 6 < 1_000_000  # of 6 layers


def test_remarks_follow_the_values():
    values = np.full((5, 5), 0.95)
    values[1, 1:] = values[1:, 1] = 0.2
    values[1, 1] = 1.0
    rows = [(i - 1, j - 1, values[i, j]) for i in range(5) for j in range(5)]
    table = pd.DataFrame(rows, columns=["i", "j", "cka"])
    table = table.assign(to=ITSELF, net="deep", seed=0, images=40)
    assert summarise(table) == pytest.approx(
        {"blocks": 3, "neighbours": 0.575, "first_last": 0.2, "alike": 2}
    )
    assert "of 3 blocks the last 2 have nearly the same output" in "\n".join(remarks(table))
    table["cka"] = np.nan
    assert "is the same for all images" in "\n".join(remarks(table))


def test_command_line_compares_twins(cli):
    sweep = {"method": "grid", "parameters": {"model.net.shortcut": {"values": ["none", "A"]}}}
    sweep["command"] = ["resnet-cli", "fit", "--config", DIGITS, "--config", "${args_json_file}"]
    Path("s.yaml").write_text(json.dumps(sweep))
    tiny = ["--run.threads", 1, "--model.net.depth", 14, "--model.net.width", 4, "--images", 20]
    code, out, err = cli("inspect", "similarity", "s.yaml", *tiny, "--out", "o", "--json")
    assert code == 0, err
    plain, residual = json.loads(out)["rows"]
    assert plain["blocks"] == 6 and "to_first" not in plain and 0 < residual["to_first"] <= 1
    frame = pd.read_csv("o/similarity.csv")
    assert len(figure(frame).axes) == 4  # two nets, one against the other, the colours
    assert len(frame) == 3 * 64 and Path("o/similarity.html").exists()
    code, _, err = cli("inspect", "similarity", DIGITS, *tiny[:-1], 3)
    assert code == 2 and "4 images or more" in err.splitlines()[-1]
