"""Eigenvalues, trace and density of the Hessian agree with the dense Hessian of a small net."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from helpers.command_line import DIGITS
from helpers.nets import Own, digits
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from lightning_resnet.analysis.inspection.curvature import (
    curvature,
    remarks,
    summarise,
)
from lightning_resnet.errors import UserError
from lightning_resnet.models import CifarResNet
from lightning_resnet.training.callbacks import Curvature
from lightning_resnet.training.hessian import hessian_product, lanczos

# torch.func.hessian imports what calls torch.jit.script
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small():
    """Return a net of 282 parameters, its batches, and its dense Hessian."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(16, 10)).double()
    x, y = torch.randn(30, 3, 4, 4).double(), torch.randint(0, 10, (30,))
    named = dict(net.named_parameters())
    sizes = [p.numel() for p in named.values()]

    def loss(flat):
        parts = zip(named.items(), flat.split(sizes), strict=True)
        moved = {name: part.view_as(p) for (name, p), part in parts}
        return F.cross_entropy(functional_call(net, moved, (x,)), y)

    flat = torch.cat([p.detach().reshape(-1) for p in named.values()])
    return net, [(x[:20], y[:20]), (x[20:], y[20:])], torch.func.hessian(loss)(flat)


def test_products_eigenvalues_trace_and_density_are_those_of_the_dense_hessian():
    net, batches, dense = small()
    product, names = hessian_product(net, batches)
    v = torch.randn(len(dense)).double()
    assert torch.allclose(product(v), dense @ v) and names[0] == "0.weight"
    values = torch.linalg.eigvalsh(dense).numpy()
    table = curvature(net, batches, draws=100, steps=80, runs=4)
    found = summarise(table.assign(lr=0.1))
    trace = values.sum()
    print(f"largest {found['largest']:.6f} (dense {values[-1]:.6f})")
    print(f"smallest {found['smallest']:.6f} (dense {values[0]:.6f})")
    print(f"trace {found['trace']:.2f} +- {found['trace_error']:.2f} (dense {trace:.2f})")
    assert found["largest"] == pytest.approx(values[-1], rel=1e-6)
    assert found["smallest"] == pytest.approx(values[0], rel=1e-6)
    assert abs(found["trace"] - trace) < 3 * found["trace_error"] < 0.3 * trace
    assert table["value"][table["what"] == "residual"].item() < 1e-6 and found["limit"] == 20
    density = table[table["what"] == "density"]
    edges = np.linspace(-1, 1, len(density) + 1)
    true = np.histogram(values / np.abs(values).max(), edges)[0] / len(values)
    distance = np.abs(np.cumsum(density["value"]) - np.cumsum(true)).max()
    print(f"density: largest difference of the cumulated shares {distance:.3f}")
    assert density["value"].sum() == pytest.approx(1) and distance < 0.05


def test_lanczos_ends_where_the_matrix_has_few_eigenvalues():
    basis = torch.linalg.qr(torch.randn(20, 20, generator=torch.Generator().manual_seed(0)))[0]
    matrix = (basis * torch.tensor([5.0, -2.0] + [0.0] * 18)) @ basis.T
    values, weights, residual = lanczos(lambda v: matrix @ v, torch.ones(20), 15)
    assert len(values) < 6 and weights.sum() == pytest.approx(1) and residual < 1e-3
    assert values[-1] == pytest.approx(5, rel=1e-4) and values[0] == pytest.approx(-2, rel=1e-4)


NETS = {
    "plain": lambda: CifarResNet(8, "none", width=4),
    "residual": lambda: CifarResNet(8, width=4),
    "torchvision": lambda: torchvision.models.resnet18(num_classes=10),
    "own": Own,
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 10)),
}


@pytest.mark.parametrize(
    "name",
    ["plain", "residual", "own", "linear", pytest.param("torchvision", marks=pytest.mark.slow)],
)
def test_any_net_has_a_curvature_and_is_left_alone(name):
    torch.manual_seed(0)
    net = NETS[name]().eval()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    table = curvature(net, [digits(4)], draws=1, steps=2)
    found = summarise(table.assign(lr="none"))
    assert np.isfinite(found["largest"]) and found["largest"] > 0 and np.isnan(found["limit"])
    assert all(torch.equal(t, before[key]) for key, t in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_a_loss_without_curvature_has_eigenvalues_of_zero():
    class Constant(nn.Linear):
        def forward(self, x):
            return torch.zeros(len(x), 10)

    found = summarise(curvature(Constant(3, 3), [digits(4)], draws=1, steps=3).assign(lr=0.1))
    assert found["largest"] == found["smallest"] == found["trace"] == 0


def test_products_that_are_not_finite_end_the_method():
    values, weights, _ = lanczos(lambda v: v * torch.nan, torch.ones(5), 4)
    assert np.isnan(values).all() and weights.sum() == 1
    frozen = Own().requires_grad_(False)
    with pytest.raises(UserError, match="no weight of this net is trained"):
        curvature(frozen, [digits(4)])


def test_remarks_follow_the_values():
    net, batches, _ = small()
    table = curvature(net, batches, draws=2, steps=40).assign(net="small", seed=0, images=30)
    assert "below 2/lr = 20;" in "\n".join(remarks(table.assign(lr=0.1)))
    assert "above 2/lr = 0.02;" in "\n".join(remarks(table.assign(lr=100)))


def test_command_line(cli):
    tiny = ["--run.threads", 1, "--model.net.depth", 8, "--model.net.width", 4, "--draws", 2]
    code, out, err = cli("inspect", "curvature", DIGITS, *tiny, "--images", 20, "--out", "o")
    assert code == 0, err
    frame = pd.read_csv("o/curvature.csv")
    assert (frame["images"] == 20).all() and "2/lr = 100; the smallest" in " ".join(out.split())
    assert Path("o/curvature.html").exists()


def test_compiled_blocks_have_no_second_derivatives():
    trainer = SimpleNamespace(datamodule=SimpleNamespace(eval_loader=None))
    for compiled in (False, True):
        Curvature().setup(trainer, SimpleNamespace(compiled=compiled), "fit")
    with pytest.raises(UserError, match="--model.compile true or false"):
        Curvature().setup(trainer, SimpleNamespace(compiled="blocks"), "fit")
