"""Two nets measured by all inspections, on one page: what differs, and what that cannot say.

`resnet-cli inspect why RUN_A RUN_B`

Each sentence is chosen by thresholds on the measured values (`CLAIMS`). None names a cause: nets
that differ in a measure also differ in their losses, and either may follow from the other.
"""

import math
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lightning_resnet.analysis.compare import page, tables
from lightning_resnet.analysis.compare.panels import Panel, panels
from lightning_resnet.analysis.compare.tables import text
from lightning_resnet.analysis.inspection.report import (
    GEOMETRIC_MEANS,
    STATES,
    geometric_mean,
    labels,
    module_of,
    state_of,
    summary,
)
from lightning_resnet.analysis.inspection.subjects import Subject, again, subjects
from lightning_resnet.analysis.inspection.trajectory import begins_elsewhere
from lightning_resnet.errors import UserError, tell
from lightning_resnet.files import write_file
from lightning_resnet.printing import fitted, markdown, paragraph, prose
from lightning_resnet.runs.reader import Run

MOST_EPOCHS = 5  # kept checkpoints that are measured, spread over the training
BOTH = ("init", "end")  # states of which all numbers are shown
DURING = "during training"
# kinds of kept epochs: these take seconds
FOLLOWED = ("gradients", "responses", "similarity")
BLIND = (
    "No sentence here names a cause: nets that differ in a measure also differ in their losses, "
    "and either may follow from the other. What differs before training cannot follow from "
    "training, but need not decide how it ends."
)


class Claim(NamedTuple):
    """What one number of a measure says of two nets.

    Attributes:
        kind: of the inspection.
        key: of the number in its summary, or in `_derived`.
        what: what the number is, with its unit.
        more: said if the numbers differ; {more} is the net with the larger one, {less} the other.
        factor: least ratio of two numbers that counts as a difference; 0: see `points`.
        points: least difference of two numbers that counts as one.
        band: lowest and highest number that count as ordinary, and what is said of a net below,
            within and above; None: nothing is said of one net.
    """

    kind: str
    key: str
    what: str
    more: str
    factor: float = 0.0
    points: float = 0.0
    band: tuple[float, float, str, str, str] | None = None


LEARNED = (
    0.8,
    0.8,
    "the loss is clearly below chance",
    "the loss is clearly below chance",
    "the loss is within 20 % of chance or above, so the net has learned little of these images",
)
EVEN = (
    0.1,
    10.0,
    "the gradient shrinks more than tenfold on its way back",
    "the gradient arrives at the first block within a factor of 10",
    "the gradient grows more than tenfold on its way back",
)
STABLE = (
    1.0,
    1.0,
    "by this number gradient descent would be stable here at the recipe's lr",
    "by this number gradient descent would be at the edge of stability here at the recipe's lr",
    "by this number gradient descent would be unstable here at the recipe's lr",
)
CLAIMS = (
    Claim(
        "landscape",
        "over_chance",
        "training loss over that of chance",
        "{less} fits the training images better",
        factor=1.5,
        band=LEARNED,
    ),
    Claim(
        "landscape",
        "better",
        "share of the plane better than chance, %",
        "the loss stays below chance farther around {more}",
        points=10,
    ),
    Claim(
        "landscape",
        "bent",
        "share of the plane that bends down, %",
        "more of the plane around {more} is not convex",
        points=10,
    ),
    Claim(
        "curvature",
        "largest",
        "largest eigenvalue of the Hessian",
        "the loss around {more} is curved more sharply",
        factor=2,
    ),
    Claim(
        "curvature",
        "of_limit",
        "largest eigenvalue over 2/lr",
        "{more} is nearer to where gradient descent becomes unstable, or farther beyond",
        factor=2,
        band=STABLE,
    ),
    Claim(
        "curvature",
        "of_largest",
        "size of the most negative eigenvalue over the largest",
        "around {more} the loss bends down more along some direction, for how much it bends up",
        points=0.1,
    ),
    Claim(
        "gradients",
        "first_last",
        "norm of dE/dx, first over last block",
        "on its way back the gradient of {more} grows more, or shrinks less",
        factor=3,
        band=EVEN,
    ),
    Claim(
        "gradients",
        "cosine",
        "cosine of two images' gradients at the first block",
        "two images ask for more similar changes in {more}",
        points=0.05,
    ),
    Claim(
        "gradients",
        "confusion",
        "lowest cosine of two batches' gradients",
        "batches oppose each other more in {less}",
        points=0.1,
    ),
    Claim(
        "responses",
        "std",
        "standard deviation of a layer's response",
        "the layers of {more} respond more strongly",
        factor=1.5,
    ),
    Claim(
        "responses",
        "ratio",
        "norm of F(x) over norm of x",
        "F(x) is larger for the size of x in {more}; in a plain net F(x) is all of the output",
        factor=1.5,
    ),
    Claim(
        "responses",
        "descent",
        "cosine of F(x) and the way down the loss",
        "F(x) points down the loss more in {more}",
        points=0.05,
    ),
    Claim(
        "alignment",
        "beyond_chance",
        "leading directions shared with the next block, over unrelated ones",
        "successive blocks of {more} share more of their leading directions",
        factor=2,
    ),
    Claim(
        "alignment",
        "top",
        "share of a Jacobian's energy in as many directions as classes",
        "the blocks of {more} act in fewer directions",
        points=0.1,
    ),
    Claim(
        "alignment",
        "largest",
        "largest singular value of a block's Jacobian",
        "a block of {more} can change more by a small change of its input",
        factor=2,
    ),
    Claim(
        "similarity",
        "first_last",
        "CKA of first and last block",
        "the last block of {less} is less like its first",
        points=0.2,
    ),
    Claim(
        "similarity",
        "alike_share",
        "share of the blocks that end the net with nearly the same output, %",
        "more of the last blocks of {more} repeat one output, up to rotation and scale",
        points=10,
    ),
    Claim(
        "similarity",
        "to_first",
        "mean over blocks of the highest CKA to a block of the first net",
        "",
        band=(
            0.5,
            0.9,
            "most outputs of its blocks have no counterpart in the first net",
            "the outputs of its blocks are partly like those of the first net",
            "nearly each block has a counterpart in the first net",
        ),
    ),
    Claim(
        "probes",
        "first",
        "validation error of a linear probe on the first block, %",
        "the first block of {less} separates the classes better",
        points=5,
    ),
    Claim(
        "probes",
        "last",
        "validation error of a linear probe on the last block, %",
        "the last block of {less} separates the classes better",
        points=5,
    ),
    Claim(
        "probes",
        "lost",
        "error of the last block's probe minus that of the best block, points",
        "in {more} later blocks undo more of the separation that an earlier one has",
        points=5,
    ),
    Claim(
        "probes",
        "recovered",
        "share of the input recovered after the last block, %",
        "the output of {more} still holds more of the input that a linear decoder finds",
        points=10,
    ),
    Claim(
        "probes",
        "cosine",
        "cosine of two images' outputs of the last block",
        "two images look more alike to the last block of {more}",
        points=0.1,
    ),
    Claim("lesions", "unharmed", "validation error, %", "{less} errs less", points=1),
    Claim(
        "lesions",
        "harm_one",
        "error added by deleting one block in the middle, points",
        "{more} depends more on its single blocks",
        points=5,
    ),
    Claim(
        "lesions",
        "harm_moved",
        "error added by moving half of the blocks, points",
        "{more} depends more on the order of its blocks",
        points=5,
    ),
    Claim(
        "paths",
        "longest_share",
        "longest path of the effective depth, share of all blocks",
        "the gradient of {more} takes longer ways; a plain net has one path, through all blocks",
        points=0.1,
    ),
    Claim(
        "shortcuts",
        "kept",
        "share of x's energy that projections keep",
        "projections of {more} keep more of x",
        points=0.1,
    ),
)
CANNOT = {
    "landscape": "a plane of two random directions does not show the directions in which training "
    "moves, and nets of different loss lie at different heights.",
    "curvature": "the Hessian is that of a few images in eval mode; training sees batch "
    "statistics, small batches and momentum.",
    "gradients": "the size of a gradient does not tell whether steps along it lower the loss.",
    "responses": "how large F(x) is does not tell whether it is of use; lesions tell that.",
    "alignment": "blocks that share directions need not do the same work, and a net that has "
    "learned little has no alignment to expect.",
    "similarity": "CKA follows the directions of largest variance; layers may do different work "
    "at a high CKA.",
    "probes": "what is not found by a linear probe or decoder may be there in another form.",
    "lesions": "a net without lesion that errs as often as chance has nothing to lose: little harm "
    "says little there.",
    "paths": "sampled paths of one batch; which of them training needs is not measured.",
    "shortcuts": "how much of x passes does not tell what the next blocks need.",
}
# Before training, lesions and shortcuts have nothing to tell, and the loss surface is that of
# batch norms in eval mode, which have no statistics of images yet.
BEFORE = tuple(
    kind for kind in CANNOT if kind not in ("lesions", "shortcuts", "landscape", "curvature")
)
ORDER = (*BEFORE, *(kind for kind in CANNOT if kind not in BEFORE))  # of the page

NOTHING = np.array([math.nan])  # what a net without the number has


class Verdict(NamedTuple):
    """What a claim says of a pair in one state.

    Attributes:
        claim: the claim.
        at: the state.
        a: number of the first net, a mean over seeds; NaN if it was not measured.
        b: number of the second net.
        larger: a | b | alike; empty where a number is missing.
        sentence: in words.
    """

    claim: Claim
    at: str
    a: float
    b: float
    larger: str
    sentence: str


@dataclass
class Pair:
    """Two nets, each trained with one seed or several.

    Attributes:
        names: of the two nets, as in the figures.
        short: the same without what both share, for sentences.
        nets: their subjects, a list for each.
        differ: settings in which they differ, in words.
        frames: state -> kind -> rows of both nets.
        verdicts: what the claims say, in the order of the page.
        left_out: lines that tell which measures could not be made, and why.
    """

    names: list[str]
    short: list[str]
    nets: list[list[Subject]]
    differ: str
    frames: dict[str, dict[str, pd.DataFrame]] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def pairs(found: Sequence[Subject]) -> list[Pair]:
    """Return the pairs: the two nets that there are, or residual nets with their plain twins.

    Raises:
        UserError: there are no two different nets, or more than two and no twins.
    """
    nets: dict[str, list[Subject]] = {}
    for subject in found:
        same = {key: text(value) for key, value in _settings(subject).items() if key != "seed"}
        group = nets.setdefault(repr(sorted(same.items())), [])
        if any(one.settings.get("seed") == subject.settings.get("seed") for one in group):
            tell(f"skipped {subject.path}: another net has these settings and this seed")
            continue
        group.append(subject)
    groups = list(nets.values())
    if len(groups) < 2:
        raise UserError(
            "why compares two different nets, and here is one (seeds aside): give two runs, or a "
            "folder of runs that differ in model.net.shortcut"
        )
    if len(groups) == 2:
        return [_pair(*groups)]
    made = []
    for group in groups:
        for other in groups:
            one, two = (_settings(part[0]) for part in (group, other))
            keys = {key for key in {*one, *two} if text(one.get(key)) != text(two.get(key))}
            if keys - {"seed"} == {"shortcut"} and text(two["shortcut"]) == "none":
                made.append(_pair(group, other))
    if not made:
        raise UserError(
            f"of these {len(groups)} nets no two differ in model.net.shortcut alone, where one is "
            "none: give two runs"
        )
    return made


def _settings(subject: Subject) -> dict[str, Any]:
    """Return the settings of a net, without the state that it is in."""
    return {key: value for key, value in subject.settings.items() if key != "at"}


def _pair(first: list[Subject], second: list[Subject]) -> Pair:
    settings = [_settings(first[0]), _settings(second[0])]
    keys, values = labels(settings)
    names = [tables.describe(keys, one) for one in values]
    differing = [i for i in range(len(keys)) if values[0][i] != values[1][i]]
    short = []
    for one in values:
        own = [one[i] or "unset" for i in differing]
        short.append(tables.describe([keys[i] for i in differing], own))
    told = []
    for key in dict.fromkeys([*settings[0], *settings[1]]):
        one, two = (text(each.get(key)) for each in settings)
        if one != two and key != "seed":
            told.append(f"{key} ({one or 'unset'} and {two or 'unset'})")
    return Pair(names, short, [first, second], ", ".join(told))


def why(args: Namespace, found: Sequence[Subject]) -> list[Pair]:
    """Measure pairs of nets before, during and after training.

    Args:
        args: flags of `resnet-cli inspect`, with `folder`, where results lie.
        found: the nets, as trained, or before training if there are no weights.

    Raises:
        UserError: there is no pair, or nothing could be measured.
    """
    made = pairs(found)
    for pair in made:
        is_trained = all(subject.state is not None for net in pair.nets for subject in net)
        if any(begins_elsewhere(subject) for net in pair.nets for subject in net):
            pair.left_out.append(
                "before training: a run began with the weights of another net (--run.init_from)"
            )
        else:
            start = [[_before(subject, args) for subject in net] for net in pair.nets]
            _measure(pair, "init", start, args, BEFORE)
        if is_trained:
            _follow(pair, args)
            _measure(pair, "end", pair.nets, args, tuple(CANNOT))
        else:
            pair.left_out.append(f"{STATES['last']}: {_why_untrained(pair)}")
    if not any(pair.verdicts for pair in made):
        raise UserError(f"nothing could be measured: {made[0].left_out[0]}")
    return made


def _why_untrained(pair: Pair) -> str:
    """Return why nets of a pair have no weights."""
    without = {}
    for name, net in zip(pair.names, pair.nets, strict=True):
        untrained = [subject for subject in net if subject.state is None]
        if any(subject.foreign is None for subject in untrained):
            without[name] = "only a recipe was given, without weights"
        elif untrained:
            without[name] = "the net before training was asked for (--at init)"
    if len(without) == len(pair.nets) and len(set(without.values())) == 1:
        return next(iter(without.values()))
    return "; ".join(f"of {name} {reason}" for name, reason in without.items())


def _before(subject: Subject, args: Namespace) -> Subject:
    """Return the net as its recipe makes it, with its seed."""
    return again(subject, args.recipe_keys or []) if subject.foreign else subject


def _measure(
    pair: Pair,
    at: str,
    nets: Sequence[Sequence[Subject]],
    args: Namespace,
    kinds: Sequence[str],
) -> None:
    """Measure kinds in one state; add frames, verdicts and what is left out."""
    frames = {}
    reasons: dict[str, list[str]] = {}
    for kind in kinds:
        own = Namespace(**vars(args) | {"what": kind, "trajectory": False})
        parts = []
        for name, net in zip(pair.names, nets, strict=True):
            for subject in net:
                try:
                    table = module_of(kind).measure(subject, own)
                except UserError as e:
                    reasons.setdefault(f"{name}: {e}", []).append(kind)
                    continue
                table.insert(0, "net", name)
                table.insert(1, "seed", _settings(subject).get("seed"))
                parts.append(table)
        tell(f"measured {_state(pair, at)}: {kind}")
        if parts:
            frames[kind] = pd.concat(parts, ignore_index=True)
            _judge_kind(pair, at, kind, frames[kind])
    pair.frames[at] = frames
    for reason, missing in reasons.items():
        pair.left_out.append(f"{', '.join(dict.fromkeys(missing))}, {_state(pair, at)}: {reason}")


def _state(pair: Pair, at: str) -> str:
    """Return a state in words; the end is that of the checkpoints that were given."""
    if at != "end":
        return STATES.get(at, at)
    states = {state_of(subject.at) for net in pair.nets for subject in net}
    return " and ".join(sorted(states))


def numbers(kind: str, table: pd.DataFrame) -> dict[str, float]:
    """Return the numbers of one net that claims are about: its summary, and what follows from it.

    Args:
        kind: of the inspection.
        table: rows of one net of one seed.
    """
    row = dict(module_of(kind).summarise(table))
    match kind:
        case "landscape":
            row["over_chance"] = row["loss"] / math.log(table["classes"].iloc[0])
        case "curvature":
            row["of_limit"] = row["largest"] / row["limit"]
            if row["largest"] > 0:
                row["of_largest"] = max(0.0, -row["smallest"]) / row["largest"]
        case "alignment" if "next" in row:
            row["beyond_chance"] = row["next"] / row["unrelated"]
        case "similarity":
            row["alike_share"] = 100 * row["alike"] / row["blocks"]
        case "probes":
            row["lost"] = row["last"] - table["val"].iloc[1:].min()
        case "lesions":
            row["harm_one"] = row["one_middle"] - row["unharmed"]
            row["harm_moved"] = row["half_moved"] - row["unharmed"]
        case "paths":
            row["longest_share"] = row["longest"] / row["blocks"]
    return row


def _of_seeds(kind: str, frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the numbers of one net, a row for each seed."""
    part = frame[frame["net"] == name]
    return pd.DataFrame([numbers(kind, one) for _, one in part.groupby("seed", dropna=False)])


def _judge_kind(pair: Pair, at: str, kind: str, frame: pd.DataFrame) -> None:
    """Add what the claims of a kind say, and a line on those that have no number."""
    found = [_of_seeds(kind, frame, name) for name in pair.names]
    missing = []
    for claim in CLAIMS:
        if claim.kind != kind:
            continue
        columns = []
        for numbers_of in found:
            has_any = claim.key in numbers_of
            columns.append(numbers_of[claim.key].to_numpy(float) if has_any else NOTHING)
        if any(np.isfinite(column).any() for column in columns):
            pair.verdicts.append(judge(claim, at, pair.short, *columns))
        else:
            missing.append(claim.what)
    if missing:
        pair.left_out.append(
            f"{kind}, {_state(pair, at)}: these nets have no value of {'; '.join(missing)}"
        )


def judge(
    claim: Claim, at: str, names: Sequence[str], first: np.ndarray, second: np.ndarray
) -> Verdict:
    """Return what a claim says of two nets.

    Args:
        claim: the claim.
        at: the state.
        names: of the nets.
        first: the number of the first net, for each seed.
        second: that of the second.
    """
    mean = geometric_mean if claim.key in GEOMETRIC_MEANS else np.mean
    a = float(mean(first))
    b = float(mean(second))
    told = []
    for name, value in zip(names, (a, b), strict=True):
        told.append(f"{_number(value)} in {name}" if math.isfinite(value) else f"none in {name}")
    sentence = f"{claim.what}: {', '.join(told)}"
    larger = ""
    if math.isfinite(a) and math.isfinite(b):
        if not _differ(claim, a, b):
            larger = "alike"
            least = f"{claim.factor:g} times" if claim.factor else f"{claim.points:g}"
            sentence += f"; less than {least} apart, which counts as no difference"
        elif max(min(first), min(second)) <= min(max(first), max(second)):
            larger = "alike"
            sentence += "; the ranges over seeds overlap, which counts as no difference"
        else:
            larger = "a" if a > b else "b"
            more, less = names if a > b else reversed(names)
            sentence += f"; {claim.more.format(more=more, less=less)}"
    if claim.band:
        for name, value in zip(names, (a, b), strict=True):
            if math.isfinite(value):
                sentence += f". {name}: {_place(claim.band, value)}"
    return Verdict(claim, at, a, b, larger, f"{sentence}.")


def _differ(claim: Claim, a: float, b: float) -> bool:
    """Tell whether two numbers are so far apart that it counts."""
    low, high = sorted((a, b))
    if claim.factor:
        return high > low and (low <= 0 or high / low >= claim.factor)
    return high - low >= claim.points


def _place(band: tuple[float, float, str, str, str], value: float) -> str:
    """Return what is said of a number below, within or above a band."""
    low, high, below, within, above = band
    if value < low:
        return below
    return above if value > high else within


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "none"


# -- during training -------------------------------------------------------------------------------


def _follow(pair: Pair, args: Namespace) -> None:
    """Measure kept epochs that all nets of a pair have, or add a line that there are none."""
    files = [[Run(subject.path).kept_epochs() for subject in net] for net in pair.nets]
    shared = sorted(set.intersection(*(set(kept) for net in files for kept in net)))
    if not shared:
        pair.left_out.append(
            "during training: the runs have no kept checkpoints of the same epochs; fit with "
            "--run.keep_epochs 5 keeps every fifth"
        )
        return
    places = np.linspace(0, len(shared) - 1, min(MOST_EPOCHS, len(shared)))
    for epoch in [shared[round(place)] for place in places]:
        nets = []
        for net, kept in zip(pair.nets, files, strict=True):
            words = [str(one[epoch]) for one in kept]
            on = net[0].device
            nets.append([*subjects(words, args.recipe_keys, "last", args.batches, on, args.trust)])
        _measure(pair, f"epoch {epoch}", nets, args, FOLLOWED)


def _epochs(pair: Pair) -> dict[int, str]:
    """Return the epochs of what was measured before and during training, and their states."""
    kept = {int(at.removeprefix("epoch ")): at for at in pair.frames if at.startswith("epoch ")}
    begin = {0: "init"} if kept and "init" in pair.frames else {}
    return begin | kept


def course(pair: Pair) -> pd.DataFrame:
    """Return the numbers of the claims by epoch, a row per net, seed and epoch."""
    rows = []
    for epoch, at in _epochs(pair).items():
        for name in pair.names:
            parts = []
            for kind in FOLLOWED:
                if kind in pair.frames[at]:
                    of_seeds = _of_seeds(kind, pair.frames[at][kind], name)
                    parts.append(of_seeds.add_prefix(f"{kind} "))
            joined = pd.concat(parts, axis=1) if parts else pd.DataFrame(index=[0])
            rows.append(joined.assign(net=name, epoch=epoch))
    return pd.concat(rows, ignore_index=True)


def _course_panels(frame: pd.DataFrame, kind: str) -> list[Panel]:
    """Return the panels of a kind's numbers over epochs; none if there are no numbers."""
    each = []
    for claim in CLAIMS:
        column = f"{claim.kind} {claim.key}"
        if claim.kind == kind and column in frame and frame[column].notna().any():
            each.append(Panel(column, claim.what, "epoch", "epoch", log=claim.factor >= 3))
    return each


def _course_sentences(pair: Pair, kind: str) -> list[str]:
    """Return for each claim of a kind at which epochs which net's number is larger."""
    found = []
    epochs = _epochs(pair)
    for claim in CLAIMS:
        told = []
        for epoch, at in epochs.items():
            for verdict in pair.verdicts:
                if verdict.claim is claim and verdict.at == at and verdict.larger:
                    told.append((epoch, _winner(pair, verdict)))
        if claim.kind == kind and told:
            by_winner: dict[str, list[str]] = {}
            for epoch, winner in told:
                by_winner.setdefault(winner, []).append(str(epoch))
            parts = []
            for winner, of_winner in by_winner.items():
                number = "epochs" if len(of_winner) > 1 else "epoch"
                parts.append(f"{winner} after {number} {', '.join(of_winner)}")
            listed = "; ".join(parts)
            found.append(f"{claim.what[0].upper()}{claim.what[1:]}, larger in: {listed}.")
    return found


def _winner(pair: Pair, verdict: Verdict) -> str:
    if verdict.larger == "alike":
        return "neither"
    return pair.short["ab".index(verdict.larger)] if verdict.larger else ""


# -- what is written -------------------------------------------------------------------------------


def title(made: Sequence[Pair]) -> str:
    """Return `why: depth 56, residual (A) against depth 56, plain`."""
    return f"why: {'; '.join(' against '.join(pair.names) for pair in made)}"


def _facts(pair: Pair, args: Namespace) -> list[str]:
    """Return what was compared, and with how much data."""
    counts = [len(net) for net in pair.nets]
    seeds = "means over seeds" if max(counts) > 1 else "the spread between seeds is not known"
    several = ""
    if pair.differ.count("(") > 1:
        several = "; which of these a difference belongs to is not measured"
    source = text(pair.nets[0][0].settings.get("source")).rpartition(".")[2]
    return [
        f"a: {pair.names[0]}; b: {pair.names[1]}; =: no difference that counts. {source}; n = "
        f"{counts[0]} and {counts[1]}: {seeds}. The recipes differ in {pair.differ}"
        f"{several}.",
        f"Measured with --images {args.images} --batches {args.batches} --points {args.points} "
        f"--draws {args.draws}; other images or draws give other numbers.",
        BLIND,
    ]


def cells(pair: Pair, states: Sequence[str]) -> list[list[str]]:
    """Return the table of all claims in those of the states that were measured, header first."""
    rows = [["measure"]]
    states = [at for at in states if at in pair.frames]
    for at in states:
        when = "before"
        if at == "end":
            when = "after" if _state(pair, at) == STATES["last"] else _state(pair, at)
        rows[0] += [f"a, {when}", f"b, {when}", f"larger {when}"]
    by_claim: dict[Claim, dict[str, Verdict]] = {}
    for verdict in pair.verdicts:
        by_claim.setdefault(verdict.claim, {})[verdict.at] = verdict
    for claim in CLAIMS:
        row = [f"{claim.kind}: {claim.what}"]
        for at in states:
            verdict = by_claim.get(claim, {}).get(at)
            if verdict:
                larger = "=" if verdict.larger == "alike" else verdict.larger
                row += [_number(verdict.a), _number(verdict.b), larger]
            else:
                row += ["", "", ""]
        if any(row[1:]):
            rows.append(row)
    return rows


def to_text(made: Sequence[Pair], args: Namespace) -> str:
    """Return what a terminal shows: the table of each pair, and what is left out."""
    parts = []
    for pair in made:
        parts += [fitted(cells(pair, BOTH), 1), *map(paragraph, _facts(pair, args))]
        parts += [paragraph(f"left out: {line}") for line in pair.left_out]
    return "\n\n".join(parts) + "\n"


def rows(made: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return the verdicts for programs."""
    found = []
    for pair in made:
        for verdict in pair.verdicts:
            row = {"net_a": pair.names[0], "net_b": pair.names[1], "at": verdict.at}
            row |= {"kind": verdict.claim.kind, "key": verdict.claim.key}
            row |= {"a": verdict.a, "b": verdict.b, "larger": verdict.larger}
            found.append(row | {"sentence": verdict.sentence})
    return found


def write(made: Sequence[Pair], args: Namespace, command: str) -> list[Path]:
    """Write why.html, .md and .csv; return the files."""
    body = []
    lines = [f"# {prose(title(made))}"]
    for pair in made:
        facts = _facts(pair, args)
        left_out = [f"Left out: {line}" for line in pair.left_out]
        nets = " against ".join(pair.names)
        body += [page.heading(nets), *map(page.note, facts)]
        body += [page.table(cells(pair, [at]), wrap=True) for at in BOTH if at in pair.frames]
        body += map(page.note, left_out)
        lines += [*map(prose, facts), markdown(cells(pair, BOTH), 1), *map(prose, left_out)]
        for kind in ORDER:
            for at in ("init", DURING, "end"):
                pieces, sentences = _section(pair, at, kind)
                if pieces:
                    groups = {"nets": nets, "measure": kind, "stage": _state(pair, at)}
                    head = f"{kind[0].upper()}{kind[1:]}, {_state(pair, at)}"
                    body.append(page.section([page.heading(head), *pieces], groups))
                    lines += [f"## {prose(head)}", *map(prose, sentences)]
    heading = title(made)
    contents = {
        "why.csv": tables.as_csv(pd.DataFrame(rows(made))),
        "why.md": "\n\n".join(lines) + "\n",
        "why.html": page.page(f"{heading[0].upper()}{heading[1:]}", body, None, command),
    }
    return [write_file(args.folder / name, text.encode()) for name, text in contents.items()]


def _said(pair: Pair, at: str, kind: str) -> list[str]:
    """Return what a kind says in one state, and what it cannot say."""
    sentences = []
    for verdict in pair.verdicts:
        if verdict.claim.kind == kind and verdict.at == at:
            sentences.append(f"{verdict.sentence[0].upper()}{verdict.sentence[1:]}")
    return [*sentences, f"Cannot say: {CANNOT[kind]}"]


def _section(pair: Pair, at: str, kind: str) -> tuple[list[str], list[str]]:
    """Return the part of the page on one kind in one state, and its sentences.

    Both are empty if nothing was measured.
    """
    frame = pair.frames.get(at, {}).get(kind)
    if at == DURING and kind in FOLLOWED and _epochs(pair):
        numbers_of = course(pair)
        each = _course_panels(numbers_of, kind)
        if not each:
            return [], []
        sentences = _course_sentences(pair, kind)
        drawing = page.drawing(panels(numbers_of, each), "Over epochs; 0 is before training.")
        return [*map(page.note, sentences), drawing], sentences
    if frame is None:
        return [], []
    module = module_of(kind)
    told = "".join(page.note(remark) for remark in module.remarks(frame))
    caption = f"{' against '.join(pair.names)}, {_state(pair, at)}."
    sentences = _said(pair, at, kind)
    pieces = [
        *map(page.note, sentences),
        page.drawing(module.figure(frame), caption),
        page.folded("Numbers and columns", page.table(summary(module, frame)) + told),
    ]
    return pieces, sentences
