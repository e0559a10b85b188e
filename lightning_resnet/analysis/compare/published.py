"""Published results next to runs: what papers and reproductions give for a net, and what differs.

A result is found by a run's own configuration. Where the published training is another one, the
cell has an asterisk, and the table of sources names each difference.
`resnet-cli compare runs/cifar10 --published cifar10`
"""

from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from lightning_resnet.analysis.compare.tables import Parts, describe, groups, text
from lightning_resnet.bounds import SHORTCUT_VALUES
from lightning_resnet.errors import UserError, nearest
from lightning_resnet.reading import EVENTS

NET = "model.net.init_args."
SGD = "model.optimizer.init_args."
SCHEDULE = "model.schedule"
OUR_SCHEDULES = ("Steps", "Cosine", "Linear", "Plateau", "ErrorWarmup")  # arguments are known
# Differences that no setting of ours removes: an unmarked value may have them.
ALWAYS = ("pixels",)
# What is named of a training, in the order in which it is told: key of the data file -> words.
WORDS = {
    "net": "net {}",
    "data": "{}",
    "images": "{:,} training images",
    "tested": "error on {:,} images",
    "epochs": "{} epochs",
    "size": "{} px",
    "batch": "batch {}",
    "rate": "rate {}",
    "falls": "schedule {}",
    "start": "{}",
    "optimizer": "optimizer {}",
    "momentum": "momentum {}",
    "nesterov": "{} momentum",
    "weight_decay": "weight decay {}",
    "decay": "decay of {}",
    "augmentation": "{}",
    "extras": "regularised by {}",
    "pixels": "{}",
    "shortcut": "option {}",
    "shortcut_value": "shortcut value {}",
    "branch_scale": "branch scale {}",
    "activation": "activation {}",
    "init": "init {}",
    "dropped": "{} blocks dropped",
    "width": "width {}",
    "norm": "norm {}",
    "epoch": "{}",
    "crops": "{}",
}
SAME = ("depth", "residual", "block")
# What a net of the papers has where the data file does not say another thing.
OF_A_NET = {"block": "basic", "branch_scale": "no", "activation": "ReLU", "dropped": 0}
EXTRAS = {  # column of a run -> what it regularises by, unless it is off
    "model.ema": "EMA",
    "model.mix": "Mixup or CutMix",
    "data.erase": "erasing",
    "model.label_smoothing": "label smoothing",
    "data.policy": "policy",
    NET + "stochastic_depth": "stochastic depth",
}
LEGEND = (
    "*: trained or measured in another way than the runs. What differs: its values are those of "
    "the published training."
)


class Result(NamedTuple):
    """An error that a paper or a reproduction has published for one net.

    Attributes:
        source: who published it.
        where: paper and table, or repository, file and commit.
        paper: whether it is a paper's own.
        data: name of the images.
        same: facts that a run must share.
        facts: of net and training, by the keys of `WORDS` and `SAME`; what is not known is missing.
        error: in percent.
        spread: its standard deviation, None if unknown.
        n: number of runs, None if unknown.
        told: what the figure is, such as `mean of 5`.
        cell: the error as it stands in a table.
    """

    source: str
    where: str
    paper: bool
    data: str
    same: tuple[str, ...]
    facts: dict[str, Any]
    error: float
    spread: float | None
    n: int | None
    told: str
    cell: str


class Match(NamedTuple):
    """A published error next to a row of the summary table.

    Attributes:
        row: values of the row keys.
        result: the published error.
        differs: what differs by the keys of `WORDS`: words on the published training, and on the
            runs.
    """

    row: tuple[str, ...]
    result: Result
    differs: dict[str, tuple[str, str]]

    def is_marked(self) -> bool:
        """Tell whether the training differs in what a setting of ours could change."""
        return any(key not in ALWAYS for key in self.differs)


@cache
def _file() -> dict[str, Any]:
    return yaml.load(files(__package__).joinpath("published.yaml").read_text("utf-8"), EVENTS)


@cache
def sets() -> dict[str, list[Result]]:
    """Return the published results by the names of their sets."""
    found: dict[str, list[Result]] = {}
    for group in _file()["results"]:
        for figure in group["figures"]:
            for name in group["sets"]:
                found.setdefault(name, []).append(_result(group, figure))
    return found


def _result(group: dict[str, Any], figure: dict[str, Any]) -> Result:
    facts = {**group["protocol"], **figure}
    of = facts.pop("of", None)
    n = facts.pop("n", None)
    error = facts.pop("error")
    spread = facts.pop("spread", None)
    is_drawn = facts.pop("figure", False)
    is_above = facts.pop("above", False)
    if "depth" in facts:
        facts = OF_A_NET | {"shortcut_value": SHORTCUT_VALUES.get(facts["shortcut"])} | facts
        facts["residual"] = facts["shortcut"] != "none"
    if "momentum" in facts:
        facts.setdefault("optimizer", "SGD")
    told = f"{of} of {n}" if of else "n = 1"
    if n is None:
        told = "n unknown"
    cell = f"{error:.2f}" if isinstance(error, float) else str(error)
    if spread is not None:
        cell += f" ± {spread:.2f}"
    if is_above:
        cell = f"above {cell}"
    elif is_drawn:
        cell = f"\u2248 {cell} (figure)"
    return Result(
        source=group["source"],
        where=group["where"],
        paper=group.get("paper", False),
        data=group["data"],
        same=tuple(group.get("same", SAME)),
        facts=facts,
        error=float(error),
        spread=spread,
        n=n,
        told=told,
        cell=cell,
    )


def named(name: str) -> list[Result]:
    """Return the results of a set.

    Raises:
        UserError: there is no set of this name.
    """
    known = sets()
    if name not in known:
        raise UserError(
            f"--published {name}: there is no such set of results{nearest(name, known)}; there are "
            f"{', '.join(known)}"
        )
    return known[name]


def listing() -> list[list[str]]:
    """Return what sets there are, header first."""
    rows = [["name", "results", "of"]]
    for name, results in sets().items():
        sources = dict.fromkeys(result.source for result in results)
        rows.append([name, str(len(results)), ", ".join(sources)])
    return rows


def match(results: Iterable[Result], runs: pd.DataFrame, rows: list[str]) -> list[Match]:
    """Return which results stand next to which rows, in the order of the rows.

    Of one source's results for a net, those of the run's own kind of shortcut go before others.

    Args:
        results: from `named`.
        runs: the table `Runs.runs`.
        rows: the row keys.
    """
    results = list(results)
    found = []
    for row, part in _parts(runs, rows):
        first = _facts(part.iloc[0])
        if not any(_is_near(result, first) for result in results):
            continue
        facts = _common(part)
        near = [result for result in results if _is_near(result, facts)]
        own = {r.source for r in near if r.facts.get("shortcut") == facts["shortcut"]}
        for result in near:
            if result.source not in own or result.facts.get("shortcut") == facts["shortcut"]:
                found.append(_compare(row, result, facts))
    return found


def _parts(runs: pd.DataFrame, rows: list[str]) -> Parts:
    return groups(runs[runs["status"] == "finished"], rows)


def _is_near(result: Result, facts: dict[str, Any]) -> bool:
    if result.data not in facts["known_data"]:
        return False
    return all(result.facts.get(key) == facts.get(key) for key in result.same)


def _compare(row: tuple[str, ...], result: Result, facts: dict[str, Any]) -> Match:
    """Name all in which a published training is another than that of a row's runs."""
    theirs = {"data": f"the images of {result.data}", **result.facts}
    if "steps" in theirs:  # counted in epochs, since a training here ends with one
        per_epoch = facts.get("steps_per_epoch")
        theirs["epochs"] = round(theirs["steps"] / per_epoch) if per_epoch else None
    differs = {}
    for key in WORDS:
        if key not in theirs or key in result.same or theirs[key] == facts.get(key):
            continue
        published = _words(key, theirs)
        differs[key] = published, _words(key, facts, is_run=True)
    return Match(row, result, differs)


def _words(key: str, facts: dict[str, Any], is_run: bool = False) -> str:
    """Return what is told of a fact of a published training, or of a run."""
    value = facts.get(key)
    if key == "epochs" and facts.get("steps") is not None:
        steps = f"{facts['steps']:,} steps"
        return f"{value} epochs, {steps}" if is_run and value else steps
    if value is None or value == "mixed":
        return f"{value or 'unknown'} {key.replace('_', ' ')}"
    if key == "nesterov":
        value = "Nesterov" if value else "plain"
    elif isinstance(value, list):
        *first, last = map(str, value)
        return f"rate falls at {', '.join(first)} and {last} %"
    elif key == "shortcut" and value == "none":
        return "no shortcut"
    return WORDS[key].format(value)


def _common(part: pd.DataFrame) -> dict[str, Any]:
    """Return the facts of a row's runs; those in which the runs differ are `mixed`."""
    facts = [_facts(run) for _, run in part.iterrows()]
    return {key: _only([each[key] for each in facts]) for key in facts[0]}


def _only(values: list[Any]) -> Any:
    return values[0] if all(value == values[0] for value in values) else "mixed"


def _facts(run: pd.Series) -> dict[str, Any]:
    """Return what a run's configuration says, under the keys of the data file."""
    shortcut = _get(run, NET + "shortcut")
    epochs = _integer(_get(run, "epochs"))
    per_epoch = _integer(_get(run, "steps_per_epoch"))
    steps = _integer(_get(run, "steps"))
    images = _integer(_get(run, "train_samples"))
    if steps is not None and per_epoch:
        epochs = round(steps / per_epoch)
    data = _data(run, images)
    return {
        "net": _net(run),
        "known_data": data,
        "data": _images(run, data),
        "images": images,
        "tested": _integer(_get(run, "val_samples")),
        "epochs": epochs,
        "steps": steps,
        "steps_per_epoch": per_epoch,
        "depth": _integer(_get(run, NET + "depth")),
        "shortcut": shortcut,
        "residual": shortcut != "none",
        "block": _get(run, NET + "block") or _block(run),
        "shortcut_value": _number(run, NET + "shortcut_value", SHORTCUT_VALUES.get(shortcut)),
        "branch_scale": _number(run, NET + "branch_scale", "no"),
        "activation": _get(run, NET + "activation") or "ReLU",
        "init": _init(run),
        "dropped": _dropped(run),
        "width": _integer(_get(run, NET + "width")),
        "norm": _get(run, NET + "norm"),
        "size": _integer(_get(run, "data.size")) or _integer(_get(run, "input_size")),
        "batch": _integer(_get(run, "data.batch_size")),
        "rate": _get(run, "lr"),
        "optimizer": _bare(_get(run, "model.optimizer.class_path")),
        "momentum": _get(run, SGD + "momentum"),
        "nesterov": _get(run, SGD + "nesterov"),
        "weight_decay": _get(run, SGD + "weight_decay"),
        "decay": _get(run, "model.decay"),
        "falls": _falls(run),
        "start": _start(run),
        "augmentation": _augmentation(run),
        "extras": _extras(run),
        "pixels": "scaled by channel",
        "epoch": "last epoch",
        "crops": "one crop",
    }


def _get(run: pd.Series, key: str) -> Any:
    value = run.get(key)
    if value is None or pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value  # Python's own type for numpy's


def _number(run: pd.Series, key: str, default: Any) -> Any:
    """Return a setting that is a number or a word; in a table with words, numbers are texts."""
    value = _get(run, key)
    if value is None:
        return default
    try:
        return float(value)
    except ValueError:
        return value


def _real(run: pd.Series, key: str, default: float) -> float:
    """Return a setting that is a number; the default where a recipe has something else there."""
    value = _number(run, key, default)
    return value if isinstance(value, float) else default


def _list(run: pd.Series, key: str) -> list[Any]:
    """Return a setting that is a list, which the table holds as a text; empty where it is none."""
    try:
        found = yaml.safe_load(str(_get(run, key)))
    except yaml.YAMLError:
        return []
    return found if isinstance(found, list) else []


def _integer(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) else None


def _bare(path: Any) -> str | None:
    return path.rpartition(".")[2] if isinstance(path, str) else None


def _net(run: pd.Series) -> str | None:
    depth = _integer(_get(run, NET + "depth"))
    if depth is None:
        return _bare(_get(run, "net"))
    return f"plain-{depth}" if _get(run, NET + "shortcut") == "none" else f"ResNet-{depth}"


def _init(run: pd.Series) -> str:
    """Return how the weights start; fan-in and fan-out differ in few layers, and count as one."""
    init = _get(run, NET + "init")
    name = "he" if init in (None, "he_fan_in") else init  # older runs name none
    return f"{name}, branches at 0" if _get(run, NET + "zero_last") else name


def _dropped(run: pd.Series) -> int:
    """Return how many blocks a net goes without."""
    return len(_list(run, NET + "drop_blocks"))


def _block(run: pd.Series) -> str:
    """Return the block of a net that has none among its arguments: by depth, as in the paper."""
    depth = _integer(_get(run, NET + "depth"))
    is_imagenet = _bare(_get(run, "net")) == "ImageNetResNet"
    return "bottleneck" if is_imagenet and depth and depth >= 50 else "basic"


def _source(run: pd.Series) -> str | None:
    """Return the class of a run's source; of a `Subset`, that of the source within."""
    inner = _get(run, "data.source.init_args.source.class_path")
    return _bare(inner or _get(run, "data.source.class_path"))


def _data(run: pd.Series, images: int | None) -> list[str]:
    """Return the names of the images that a run's source has, or that its files may copy.

    A copy is known by the numbers of classes and images, and by the size.
    """
    known = _file()["data"]
    source = _source(run)
    own = [name for name, data in known.items() if source and data.get("source") == source]
    validation = _integer(_get(run, "val_samples"))
    if own or images is None or validation is None:
        return own
    classes = _integer(_get(run, NET + "num_classes"))
    size = _integer(_get(run, "input_size"))
    copies = []
    for name, data in known.items():
        fits = classes == data["classes"] and images + validation in data["images"]
        if fits and data.get("size", size) == size:
            copies.append(name)
    return copies


def _images(run: pd.Series, data: list[str]) -> str:
    """Return which images a run has: the published ones, or what is known of a copy.

    That is what its reference says, else the name of its files. Images that have no source of
    their own are always files.
    """
    about = _get(run, "about")
    if about:
        return about
    source = _source(run)
    if not data:
        return source or "unknown images"
    if _file()["data"][data[0]].get("source", source) == source:
        return f"the images of {data[0]}"
    files = _get(run, "data.source.init_args.train") or _get(run, "data.source.init_args.root")
    return f"copy of the images ({Path(files).name if files else source})"


def _falls(run: pd.Series) -> Any:
    """Return at which percent of the training the rate falls by ten, or the schedule's name."""
    for part in (f"{SCHEDULE}.init_args.then", SCHEDULE):
        shares = _list(run, f"{part}.init_args.at")
        is_numbers = shares and all(isinstance(share, int | float) for share in shares)
        if is_numbers and _bare(_get(run, f"{part}.class_path")) == "Steps":
            return [round(100 * share) for share in shares]
    return _bare(_get(run, f"{SCHEDULE}.class_path"))


def _start(run: pd.Series) -> str:
    """Return what the rate does first."""
    arguments = f"{SCHEDULE}.init_args."
    schedule = _bare(_get(run, f"{SCHEDULE}.class_path"))
    if schedule not in (None, *OUR_SCHEDULES):
        return f"as {schedule} says"
    if schedule == "ErrorWarmup" and (rate := _real(run, "lr", 0.0)):
        rate *= _real(run, arguments + "factor_before", 0.1)
        until = 100 * _real(run, arguments + "until_error", 0.8)
        return f"rate {rate:.6g} until the training error is below {until:.6g} %"
    if epochs := _real(run, arguments + "warmup_epochs", 0.0):
        return f"warm-up over {epochs:g} epochs"
    share = _real(run, arguments + "warmup", 0.0)
    return f"warm-up over {100 * share:.6g} % of the training" if share else "no warm-up"


def _augmentation(run: pd.Series) -> str | None:
    crop = _get(run, "data.crop")
    if crop is None:
        return None
    flips = " and flip" if _get(run, "data.flip") else ""
    if crop == "pad":
        return f"pad {_integer(_get(run, 'data.pad'))}{flips}"
    return f"crop {crop}{flips}"


def _extras(run: pd.Series) -> str:
    """Return what regularises a training apart from weight decay and augmentation."""
    found = []
    for key, words in EXTRAS.items():
        inside = [column for column in run.index if column == key or column.startswith(f"{key}.")]
        if any(_get(run, column) not in (None, 0, "none", False) for column in inside):
            found.append(words)
    return ", ".join(found) or "nothing"


def add_paper(table: pd.DataFrame, runs: pd.DataFrame, rows: list[str]) -> pd.DataFrame:
    """Add the column `paper` to the summary table, if a paper has a net of just this training.

    Args:
        table: the summary table.
        runs: the table `Runs.runs`.
        rows: the row keys.
    """
    papers = [result for results in sets().values() for result in results if result.paper]
    found = [each for each in match(papers, runs, rows) if not each.is_marked()]
    return table.assign(paper=_papers(table, found, rows)) if found else table


def add_published(table: pd.DataFrame, matches: list[Match], rows: list[str]) -> pd.DataFrame:
    """Add the columns `paper` and `others` to the summary table."""
    columns = {"paper": _papers(table, matches, rows), "others": _others(table, matches, rows)}
    return table.assign(**{name: cells for name, cells in columns.items() if any(cells)})


def _papers(table: pd.DataFrame, matches: list[Match], rows: list[str]) -> list[str]:
    """Return the papers' own errors for each row of the summary table."""
    return [_cell([m for m in each if m.result.paper]) for each in _by_row(table, matches, rows)]


def _others(table: pd.DataFrame, matches: list[Match], rows: list[str]) -> list[str]:
    """Return the range of the reproductions' errors for each row of the summary table."""
    found = []
    for each in _by_row(table, matches, rows):
        others = [m for m in each if not m.result.paper]
        if len(others) < 3:
            found.append(_cell(others))
            continue
        errors = [m.result.error for m in others]
        mark = "*" if any(m.is_marked() for m in others) else ""
        found.append(f"{min(errors):.2f}\u2013{max(errors):.2f}{mark} ({len(others)})")
    return found


def _by_row(table: pd.DataFrame, matches: list[Match], rows: list[str]) -> list[list[Match]]:
    return [[m for m in matches if m.row == tuple(row)] for row in table[rows].to_numpy()]


def _cell(matches: list[Match]) -> str:
    cells = []
    for each in matches:
        best = f" {each.result.told}" if each.result.told.startswith("best") else ""
        mark = "*" if each.is_marked() else ""
        cells.append(f"{each.result.cell}{mark}{best}")
    return ", ".join(dict.fromkeys(cells))


def net_name(result: Result) -> str:
    """Return the name of a result's net, such as plain-20 or ResNet-34 B."""
    facts = result.facts
    if "depth" not in facts:
        return f"{facts['size']} px, {facts['epochs']} epochs"
    block = facts["block"]
    if block not in ("basic", "bottleneck"):
        return f"{block}-{facts['depth']}"
    if facts["residual"]:
        return f"ResNet-{facts['depth']} {facts['shortcut']}"
    return f"plain-{facts['depth']}"


def to_cells(matches: list[Match]) -> list[list[str]]:
    """Return a line for each source and training: its errors, of how many runs, what differs.

    What differs in the same way in all of them is left to the legend.
    """
    shared = _shared(matches)
    lines: dict[tuple[str, ...], tuple[list[str], list[str]]] = {}
    for result, differs in sorted(_by_result(matches), key=_order):
        told = "; ".join(words for key, words in differs.items() if key not in shared) or "-"
        errors, where = lines.setdefault((result.source, result.told, told), ([], []))
        errors.append(f"{net_name(result)} {result.cell}")
        where.append(result.where)
    found = [["source", "error, %", "runs", "differs", "where"]]
    for (source, runs, told), (errors, where) in lines.items():
        found.append([source, ", ".join(errors), runs, told, "; ".join(dict.fromkeys(where))])
    return found


def _by_result(matches: list[Match]) -> list[tuple[Result, dict[str, str]]]:
    """Return each published result once, with what differs from any row's runs."""
    found: dict[int, tuple[Result, dict[str, str]]] = {}
    for each in matches:
        _, differs = found.setdefault(id(each.result), (each.result, {}))
        differs |= {key: theirs for key, (theirs, _) in each.differs.items()}
    in_order = []
    for result, differs in found.values():
        in_order.append((result, {key: differs[key] for key in WORDS if key in differs}))
    return in_order


def _shared(matches: list[Match]) -> dict[str, str]:
    """Return what differs in the same way in all published trainings."""
    first, *others = [differs for _, differs in _by_result(matches)]
    return {key: words for key, words in first.items() if all(o.get(key) == words for o in others)}


def _order(line: tuple[Result, dict[str, str]]) -> tuple[bool, str]:
    return not line[0].paper, line[0].source


def legend(matches: list[Match]) -> str:
    """Return what the table of sources is, and what the runs did in all that differs."""
    sentences = [LEGEND]
    if shared := _shared(matches):
        sentences.append(f"All published trainings: {'; '.join(shared.values())}.")
    here = []
    for key in WORDS:
        values = [each.differs[key][1] for each in matches if key in each.differs]
        if values:
            here.append(" or ".join(dict.fromkeys(values)))
    if here:
        sentences.append(f"The runs: {'; '.join(here)}.")
    return " ".join(sentences)


def to_rows(matches: list[Match], rows: list[str]) -> list[dict[str, Any]]:
    """Return a line for each result next to a row, for programs."""
    return [
        {
            **dict(zip(rows, each.row, strict=True)),
            "source": each.result.source,
            "where": each.result.where,
            "paper": each.result.paper,
            "net": net_name(each.result),
            "error": each.result.error,
            "spread": each.result.spread,
            "n": each.result.n,
            "runs": each.result.told,
            "differs": [f"{theirs} (here {own})" for theirs, own in each.differs.values()],
        }
        for each in matches
    ]


def unmatched(
    name: str, matches: list[Match], runs: pd.DataFrame, rows: list[str], labels: list[str]
) -> list[str]:
    """Return a note on the rows for which a set has no result, and why."""
    met = {each.row for each in matches}
    left = {row: part for row, part in _parts(runs, rows) if row not in met}
    if not left:
        return []
    results = named(name)
    shown = []
    for row in left:
        values = dict(zip(rows, row, strict=True))
        shown.append(describe(labels, [text(values[key]) for key in labels]))
    data = ", ".join(dict.fromkeys(result.data for result in results))
    what = "any row" if not met else "; ".join(dict.fromkeys(shown))
    told = f"No result in {name} for {what}: it has nets and trainings on {data}"
    lacking = dict.fromkeys(_lacking(results, _common(part)) for part in left.values())
    if all(lacking):
        told += f", and none of {' or '.join(lacking)}"
    return [f"{told}."]


def _lacking(results: list[Result], facts: dict[str, Any]) -> str:
    """Return what no result on the images of a row is of; empty: none is on these images."""
    same: dict[str, None] = {}
    for result in results:
        if result.data in facts["known_data"]:
            same |= dict.fromkeys(result.same)
    if "depth" in same:
        return f"{facts['net']} of {facts['block']} blocks"
    return " and ".join(_words(key, {**facts, "steps": None}) for key in same)
