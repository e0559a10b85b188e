"""The chain rule of plain and residual stacks by hand, against autograd (docs/science.md).

`resnet-cli inspect gradients` prints the result.

Without norm and activation, plain x_{l+1} = F(x_l), residual x_{l+1} = x_l + F(x_l), with
F(x) = V W x. By hand dE/dx_l = (1 + V W)^T dE/dx_{l+1} (without the 1 in a plain net),
dE/dV = g (W x)^T and dE/dW = V^T g x^T with g = dE/dx_{l+1}: the added identity stands in dE/dx
only; the formulas for dE/dw look alike in both nets.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

WIDTH = 8
DEPTHS = (1, 2, 5, 10, 20, 30, 40, 50)
SEEDS = range(7)
KINDS = {  # name -> residual, whether the formula has the added 1
    "plain": (False, True),
    "residual": (True, True),
    "residual, without the 1": (True, False),
}
Weights = Sequence[tuple[Tensor, Tensor]]  # (V, W) of each block, [d, d]
Gradients = list[Tensor]  # dE/dx of each block's input [B, d], then dE/dV and dE/dW of each


def derivation(depth: int, residual: bool, seed: int, add_one: bool = True) -> float:
    """Return how far the formulas deviate from autograd, in a random stack in float64.

    Args:
        depth: blocks.
        residual: or plain.
        seed: of weights and data.
        add_one: False leaves the added 1 out of the formula for the residual stack, which must
            then fail.

    Returns:
        The largest relative deviation over all gradients.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weights = []
    for _ in range(depth):
        v = draw(WIDTH, WIDTH) / WIDTH**0.5
        w = draw(WIDTH, WIDTH) / WIDTH**0.5
        weights.append((v, w))
    x = draw(5, WIDTH)
    target = draw(5, WIDTH)
    auto = by_autograd(weights, x, target, residual)
    hand = by_hand(weights, x, target, residual, residual and add_one)
    return max(((a - h).norm() / a.norm()).item() for a, h in zip(auto, hand, strict=True))


def forward(weights: Weights, x: Tensor, residual: bool) -> list[Tensor]:
    """Return the states x_1 ... x_{L+1}, each [B, d]."""
    states = [x]
    for v, w in weights:
        branch = states[-1] @ w.T @ v.T
        states.append(states[-1] + branch if residual else branch)
    return states


def by_autograd(weights: Weights, x: Tensor, target: Tensor, residual: bool) -> Gradients:
    """Return the gradients by autograd.

    E is the mean over images of the cross entropy with soft targets; any E would do.
    """
    leaves = [(v.clone().requires_grad_(), w.clone().requires_grad_()) for v, w in weights]
    states = forward(leaves, x.clone().requires_grad_(), residual)
    vs, ws = zip(*leaves, strict=True)
    return list(torch.autograd.grad(_energy(states[-1], target), [*states[:-1], *vs, *ws]))


def by_hand(weights: Weights, x: Tensor, target: Tensor, residual: bool, one: bool) -> Gradients:
    """Return the gradients by the formulas; `one`: with the added 1.

    They go from the last block to the first, and take only dE/dx_{L+1} as given.
    """
    states = forward(weights, x, residual)
    soft = target.softmax(1)
    g = (states[-1].softmax(1) * soft.sum(1, keepdim=True) - soft) / len(x)
    at_x: list[Tensor] = []
    at_v: list[Tensor] = []
    at_w: list[Tensor] = []
    for state, (v, w) in zip(reversed(states[:-1]), reversed(weights), strict=True):
        at_v.insert(0, g.T @ (state @ w.T))
        at_w.insert(0, (g @ v).T @ state)
        g = g @ v @ w + (g if one else 0)
        at_x.insert(0, g)
    return [*at_x, *at_v, *at_w]


def _energy(logits: Tensor, target: Tensor) -> Tensor:
    return -(target.softmax(1) * logits.log_softmax(1)).sum(1).mean()


def table() -> pd.DataFrame:
    """Return the largest relative deviation by depth, of 56 stacks of each kind."""
    rows = []
    for depth in DEPTHS:
        row: dict[str, float] = {"depth": depth}
        for name, (residual, one) in KINDS.items():
            row[name] = max(derivation(depth, residual, seed, one) for seed in SEEDS)
        rows.append(row)
    return pd.DataFrame(rows)


def sentence() -> str:
    """Return the outcome in one line."""
    worst = table().drop(columns="depth").agg(["min", "max"])
    return (
        f"Derivation, {len(DEPTHS) * len(SEEDS)} stacks each in float64: formulas deviate from "
        f"autograd by at most {worst.loc['max', 'plain']:.1e} (plain) and "
        f"{worst.loc['max', 'residual']:.1e} (residual) relative; without the added 1 by at least "
        f"{worst.loc['min', 'residual, without the 1']:.2f}."
    )
