"""The package's floor plan: each room imports only what stands before it, and no two files import
each other.
"""

import ast
import re
from graphlib import CycleError, TopologicalSorter

from helpers.command_line import REPOSITORY

PACKAGE = REPOSITORY / "lightning_resnet"
# each imports only what stands before it; files that are in none of these folders are the ground
# floor
ORDER = (
    "models",
    "runs",
    "data",
    "tracking",
    "training",
    "engine",
    "config",
    "weights",
    "sweeps",
    "analysis",
    "doctor",
    "cli",
    "api",
    "bench",
)
LIGHTNING = ("pytorch_lightning", "lightning_fabric")
ANALYSIS = ("compare", "inspection", "evaluation")  # the order within `analysis`


def modules():
    """Dotted name -> syntax tree, of all files of the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text())
    return found


MODULES = modules()


def imports(tree, local=None):
    """Yield (module of ours, line) for each import; `local`: only those inside functions."""
    inside = {
        node
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if local and node not in inside:
            continue
        if (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").split(".")[0] == "lightning_resnet"
        ):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield (full if full in MODULES else node.module), node.lineno
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "lightning_resnet":
                    yield alias.name, node.lineno


def floor(module):
    room = module.split(".")[1:2]
    return ORDER.index(room[0]) + 1 if room and room[0] in ORDER else 0


def test_imports_run_one_way():
    upward = [
        f"{module}:{line} imports {target}"
        for module, tree in MODULES.items()
        for target, line in imports(tree)
        if floor(target) > floor(module) and module != "lightning_resnet.__main__"
    ]
    assert not upward


def test_the_three_parts_of_analysis_stand_on_one_another():
    for module, tree in MODULES.items():
        part = module.split(".")[2:3]
        if not module.startswith("lightning_resnet.analysis.") or part[0] not in ANALYSIS:
            continue
        for target, line in imports(tree):
            other = (
                target.split(".")[2:3] if target.startswith("lightning_resnet.analysis.") else []
            )
            if other and other[0] in ANALYSIS:
                assert ANALYSIS.index(other[0]) <= ANALYSIS.index(part[0]), (
                    f"{module}:{line} imports {target}"
                )


def test_no_two_files_import_each_other():
    """Importing a file of another folder runs that folder's `__init__` first."""
    graph = {}
    for module, tree in MODULES.items():
        graph[module] = {target for target, _ in imports(tree)}
        for target in list(graph[module]):
            folder = target.rpartition(".")[0]
            is_ours = folder in MODULES and folder != "lightning_resnet"
            if is_ours and not f"{module}.".startswith(f"{folder}."):
                graph[module].add(folder)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as e:
        raise AssertionError(f"a circle of imports: {' -> '.join(e.args[1])}") from None


def test_only_the_command_line_imports_late():
    """A verb's help must not wait for torch; all other files import at their top."""
    late = [
        f"{module}:{line} imports {target}"
        for module, tree in MODULES.items()
        for target, line in imports(tree, local=True)
        if not module.startswith("lightning_resnet.cli.")
    ]
    assert not late


def test_no_module_is_named_like_a_library_that_we_use():
    libraries = {
        "torch",
        "torchvision",
        "ffcv",
        "wandb",
        "onnx",
        "numpy",
        "pandas",
        "secrets",
        "inspect",
        "signal",
    }
    named = {
        module.rpartition(".")[2]
        for module in MODULES
        if not module.startswith("lightning_resnet.cli.")
    }
    assert not named & libraries


def test_the_ground_floor_has_no_torch():
    for module, tree in MODULES.items():
        if floor(module) == 0:
            names = {
                alias.name
                for node in tree.body
                if isinstance(node, ast.Import)
                for alias in node.names
            }
            names |= {
                node.module
                for node in tree.body
                if isinstance(node, ast.ImportFrom) and node.module
            }
            assert not {name.split(".")[0] for name in names} & {
                "torch",
                "torchvision",
                "pytorch_lightning",
            }, module


def private_names(tree):
    """Yield (private name, line) of attributes and of what is imported from Lightning; double
    underscores apart.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr, node.lineno
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(LIGHTNING):
            yield from ((alias.name, node.lineno) for alias in node.names)


def defined(tree):
    """Names of the functions of a file, and of the attributes that it sets."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node.name
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and ast.unparse(node.value) == "self"
        ):
            yield node.attr


def test_lightnings_private_names_are_listed_and_used_in_the_engine_alone():
    listed = set(
        re.findall(r"`(_\w+)`", ast.get_docstring(MODULES["lightning_resnet.engine.trainer"]))
    )
    used, ours = set(), set()
    for module, tree in MODULES.items():
        names = {(name, line) for name, line in private_names(tree) if re.match(r"_[A-Za-z]", name)}
        if module.startswith("lightning_resnet.engine."):
            used |= {name for name, _ in names}
            ours |= set(defined(tree))
        else:
            foreign = [f"{module}:{line} uses {name}" for name, line in names if name in listed]
            assert not foreign
    unlisted = used - ours - listed - {"_exit"}  # of os
    assert not unlisted, f"list them at the top of engine/trainer.py: {unlisted}"
    engine = "".join(path.read_text() for path in (PACKAGE / "engine").glob("*.py"))
    assert not [name for name in listed if engine.count(name) == 1], "listed, and not used any more"


def test_no_file_outside_the_engine_reads_a_trainers_private_attributes():
    for module, tree in MODULES.items():
        if module.startswith("lightning_resnet.engine."):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(LIGHTNING):
                assert not [a.name for a in node.names if a.name.startswith("_")], (
                    f"{module}:{node.lineno}"
                )
            if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                owner = ast.unparse(node.value)
                assert not re.search(r"\b(trainer|fit_loop|strategy)$", owner), (
                    f"{module}:{node.lineno}"
                )


RUN_FILES = {"config.yaml", "meta.json", "metrics.jsonl"}
RUN_FOLDERS = {"attempts", "checkpoints"}
PATH_CALLS = {"Path", "glob", "rglob", "joinpath", "with_name"}
LIGHTNINGS_OWN = {
    "lightning_resnet.engine.observers"
}  # the folder of a ModelCheckpoint has the same name


def in_paths(tree):
    """Yield the nodes that are an operand of `/`, or an argument of what makes or finds paths."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            yield from (node.left, node.right)
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in PATH_CALLS:
            yield from node.args


def test_only_runs_names_the_files_of_a_run_directory():
    """One reader (runs/reader.py) and one writer (runs/directory.py): a sentence may name a file,
    no path does.
    """
    named = []
    for module, tree in MODULES.items():
        if module.startswith("lightning_resnet.runs.") or module in LIGHTNINGS_OWN:
            continue
        parts_of_paths = set(in_paths(tree))
        for node in ast.walk(tree):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            parts = set(node.value.split("/"))
            is_path = "/" in node.value or node in parts_of_paths
            is_sentence = " " in node.value
            if not is_sentence and (parts & RUN_FILES or (is_path and parts & RUN_FOLDERS)):
                named.append(f"{module}:{node.lineno} names {node.value}")
    assert not named
