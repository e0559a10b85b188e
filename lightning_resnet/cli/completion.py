"""`resnet-cli completion SHELL`: a script that completes verbs, options, keys and recipes.

The script holds all words, so that a TAB starts no process of Python. After an update of the
package a new shell has the new words. The names of runs are those of the links below runs/, which
the shell itself lists.
"""

import argparse
import re
from argparse import Namespace
from collections.abc import Iterator
from importlib import import_module

from lightning_resnet import shipped
from lightning_resnet.arguments import Parser
from lightning_resnet.cli import pages
from lightning_resnet.keys import Key, classes, keys

CALL = {
    "bash": 'eval "$(resnet-cli completion bash)"     # in ~/.bashrc',
    "zsh": 'eval "$(resnet-cli completion zsh)"     # in ~/.zshrc, after compinit',
    "fish": "resnet-cli completion fish | source     # in ~/.config/fish/config.fish",
}
FILES = "@files"  # stands for the names of files among the values of an option
RUNS = "@runs"  # stands for the names of runs, and what the shell completes them with
OF_RUNS = ("RUN", "RUNS", "TARGET")  # names of the words that are runs
ANY = "*"  # stands for any verb before the option of a recipe
BASH = r"""
_resnet_cli_runs() {
  local run
  for run in runs/*/*/attempts; do
    run="${run%/attempts}"
    # ids only where one is begun to be typed
    [[ ! -L $run && -z $1 ]] || printf '%s\n' "${run##*/}"
  done
}
_resnet_cli() {
  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" context="" before="" all
  ((COMP_CWORD < 2)) || context="${COMP_WORDS[1]}"
  if ((COMP_CWORD > 2)) && [[ -n "$(_resnet_cli_words "$context ${COMP_WORDS[2]}")" ]]; then
    context+=" ${COMP_WORDS[2]}"
  fi
  # bash takes --key=value and reference:name for three words
  if [[ $cur == "=" ]]; then
    cur=""
  elif [[ $prev == "=" ]]; then
    prev="${COMP_WORDS[COMP_CWORD-2]}"
  elif [[ $cur == ":" ]]; then
    before="$prev:" cur="$prev:"
  elif [[ $prev == ":" ]]; then
    before="${COMP_WORDS[COMP_CWORD-2]}:" cur="$before$cur"
  fi
  all="$(_resnet_cli_values "$context $prev")"
  COMPREPLY=()
  if [[ -n $all ]]; then
    if [[ $all == *@files* ]]; then
      compopt -o filenames 2>/dev/null
      mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    fi
    all="${all//@files/}"
  else
    all="$(_resnet_cli_words "$context")"
    [[ $cur == -* ]] || all="$(grep -v '^-' <<<"$all")"
    # the first word alone is a run, but for verbs that take several
    local several="^(rm|export|runs|compare|inspect|sync)"
    [[ $COMP_CWORD == 2 || $context =~ $several ]] || all="${all//@runs/}"
  fi
  [[ $all != *@runs* ]] || all="${all//@runs/$(_resnet_cli_runs "$cur")}"
  mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -W "$all" -- "$cur")
  COMPREPLY=("${COMPREPLY[@]#"$before"}")
}
complete -o bashdefault -o default -F _resnet_cli resnet-cli
"""
ZSH = r"""
_resnet_cli_runs() {
  local run
  for run in runs/*/*/attempts(N); do
    run="${run%/attempts}"
    [[ ! -L $run && -z $1 ]] || print -r -- "${run##*/}"
  done
}
_resnet_cli() {
  local cur="${words[CURRENT]}" prev="${words[CURRENT-1]}" context="" all
  local -a found
  ((CURRENT < 3)) || context="${words[2]}"
  if ((CURRENT > 3)) && [[ -n "$(_resnet_cli_words "$context ${words[3]}")" ]]; then
    context+=" ${words[3]}"
  fi
  if [[ $cur == --*=* ]]; then
    prev="${cur%%=*}"
    compset -P '*='
  fi
  all="$(_resnet_cli_values "$context $prev")"
  if [[ -n $all ]]; then
    found=("${(@f)all}")
    found=("${(@)found:#@files}")
    [[ $all != *@files* ]] || _files
  else
    all="$(_resnet_cli_words "$context")"
    found=("${(@f)all}")
    if ((CURRENT > 3)) && [[ ! $context =~ "^(rm|export|runs|compare|inspect|sync)" ]]; then
      all=""
    fi
    if [[ $cur != -* ]]; then
      found=("${(@)found:#-*}")
      _files
    fi
  fi
  [[ $all != *@runs* ]] || found+=("${(@f)$(_resnet_cli_runs "$cur")}")
  found=("${(@)found:#@runs}")
  compadd -- "${(@)found:#}"
}
compdef _resnet_cli resnet-cli
"""
FISH = r"""
function __resnet_cli_runs
  for run in runs/*/*/attempts
    set run (string replace '/attempts' '' $run)
    if test -L $run -o -n "$argv[1]"
      string replace -r '.*/' '' $run
    end
  end
end
function __resnet_cli
  set -l given (commandline -opc)
  set -l cur (commandline -ct)
  set -l context ''
  if test (count $given) -gt 1
    set context $given[2]
  end
  if test (count $given) -gt 2
    if test (count (__resnet_cli_words "$context $given[3]")) -gt 0
      set context "$context $given[3]"
    end
  end
  set -l all (__resnet_cli_values "$context $given[-1]")
  if test (count $all) -eq 0
    set all (__resnet_cli_words "$context")
    set several '^(rm|export|runs|compare|inspect|sync)'
    if test (count $given) -gt 2; and not string match -qr $several "$context"
      set all (string match -v -- '@runs' $all)
    end
    if not string match -q -- '-*' "$cur"
      set all (string match -v -- '-*' $all)
      __fish_complete_path "$cur"
    end
  else if contains -- '@files' $all
    __fish_complete_path "$cur"
  end
  if contains -- '@runs' $all
    __resnet_cli_runs "$cur"
  end
  string match -v -- '@files' $all | string match -v -- '@runs'
end
complete -c resnet-cli -f -a '(__resnet_cli)'
"""
Table = dict[str, list[str]]


def make_parser() -> Parser:
    """Return the parser of `resnet-cli completion`."""
    parser = Parser(
        prog="resnet-cli completion",
        description="Print a script that completes verbs, options, keys and recipes in your shell.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="to use it:\n" + "\n".join(f"  {call}" for call in CALL.values()),
    )
    parser.add_argument("shell", choices=list(CALL), help="your shell")
    return parser


def run(args: Namespace) -> int:
    """Print the script; return 0."""
    words, values = _tables()
    print(f"# {CALL[args.shell]}")
    if args.shell == "fish":
        print(_fish_function("__resnet_cli_words", words))
        print(_fish_function("__resnet_cli_values", values), FISH, sep="")
    else:
        print(_function("_resnet_cli_words", words))
        print(
            _function("_resnet_cli_values", values), BASH if args.shell == "bash" else ZSH, sep=""
        )
    return 0


def _tables() -> tuple[Table, Table]:
    """Return what may follow each context, and the values of each option.

    Returns:
        Words by context, such as `` (the start), `fit`, `data` or `data get`; and values by context
        and option, such as `sweep --root` or `* --data.source`.
    """
    from lightning_resnet.cli.main import VERBS

    words = {"": [*VERBS, "help", "--help", "--version"], "help": list(VERBS)}
    values = dict(_values_of_keys())
    every_key = sorted(_every_key())
    for verb, known in VERBS.items():
        if verb in pages.RECIPE_VERBS:
            own = re.findall(r"^  (-[\w.-]+)", pages.page(verb), re.M)
            words[verb] = list(dict.fromkeys([*own, *every_key, "--help", "--help-all"]))
            if verb != "fit":
                words[verb].append(RUNS)
            if verb != "predict":
                continue
        module = import_module(f"lightning_resnet.cli.{known.module or verb}")
        if verb != "predict" and hasattr(module, "make_parser"):
            parser = module.make_parser()
            _add(verb, parser, words, values)
            if parser.recipe == "keys":
                words[verb] += ["--config", *every_key]
    names = list(shipped.recipes())
    words["sweep"] += shipped.sweeps()
    words["recipes"] += [*names, *shipped.sweeps(), *shipped.batch_files()]
    words["compare"] += [f"reference:{name}" for name in shipped.references()]
    words["inspect"] += names
    return words, values


def _add(context: str, parser: argparse.ArgumentParser, words: Table, values: Table) -> None:
    """Add the options of a verb's parser, their choices, and the verbs below it."""
    words[context] = []
    for action in parser._actions:
        words[context] += [option for option in action.option_strings if len(option) > 1]
        if isinstance(action, argparse._SubParsersAction):
            words[context] += action.choices
            for name, inner in action.choices.items():
                _add(f"{context} {name}", inner, words, values)
        elif action.choices and action.option_strings:
            for option in action.option_strings:
                values[f"{context} {option}"] = [str(choice) for choice in action.choices]
        elif action.metavar in OF_RUNS and not action.option_strings:
            words[context].append(RUNS)
        elif action.choices:
            words[context] += [str(choice) for choice in action.choices]
        elif action.option_strings and action.nargs != 0:
            for option in action.option_strings:
                values[f"{context} {option}"] = [FILES]


def _every_key() -> Iterator[str]:
    """Yield each key of a recipe, and each argument of the classes that a key takes, as a flag."""
    for name, key in keys().items():
        yield f"--{name}"
        for owner in key.classes if key.is_ours else []:
            for argument in classes().get(owner, {}):
                yield f"--{name}.{argument}"


def _values_of_keys() -> Iterator[tuple[str, list[str]]]:
    """Yield the values of the keys of a recipe, and of their short names on the pages."""
    yield f"{ANY} --config", [*shipped.recipes(), FILES]
    short: dict[str, list[str]] = {}
    for name, key in re.findall(r"^  (--[\w-]+) .*?--([\w.]+)$", pages.FIT, re.M):
        short.setdefault(key, []).append(name)
    for name, key in keys().items():
        if found := _values(key):
            for option in (f"--{name}", *short.get(name, [])):
                yield f"{ANY} {option}", found
        for owner in key.classes if key.is_ours else []:
            for argument, its in classes().get(owner, {}).items():
                if found := _values(its):
                    yield f"{ANY} --{name}.{argument}", found
    for option in short.get("model.net.shortcut", []):
        yield f"{ANY} {option}", ["none", "A", "B", "C"]


def _values(key: Key) -> list[str]:
    """Return the words that a key may be; empty where any text or number may follow."""
    found = [*key.choices, *key.classes]
    if "bool" in key.kinds:
        found += ["true", "false"]
    if not found and key.name.endswith(("init_from", "ckpt_path")):
        return [FILES, RUNS]
    if not found and key.name.endswith(("root", "stage", "train", "val")):
        return [FILES]
    return found


def _function(name: str, table: Table) -> str:
    """Return a function of bash and zsh that prints the words for its argument."""
    lines = [f"{name}() {{", '  case "$1" in']
    for contexts, words in _joined(table):
        # the verb that `ANY` stands for is outside the quotes
        pattern = "|".join(f"'{context}'" for context in contexts).replace(f"'{ANY}", f"{ANY}'")
        lines.append(f"    {pattern}) {words} ;;")
    return "\n".join([*lines, "  esac", "}"])


def _fish_function(name: str, table: Table) -> str:
    """Return a function of fish that prints the words for its argument."""
    lines = [f"function {name}", '  switch "$argv[1]"']
    for contexts, words in _joined(table):
        patterns = " ".join(f"'{context}'" for context in contexts)
        lines += [f"    case {patterns}", f"      {words}"]
    return "\n".join([*lines, "  end", "end"])


def _joined(table: Table) -> Iterator[tuple[list[str], str]]:
    """Yield the contexts that have the same words, and the command that prints these words."""
    contexts: dict[tuple[str, ...], list[str]] = {}
    for context, words in table.items():
        if words:
            contexts.setdefault(tuple(words), []).append(context)
    for words, found in contexts.items():
        quoted = " ".join(f"'{word}'" for word in words)
        yield found, f"printf '%s\\n' {quoted}"
