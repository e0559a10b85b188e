"""Choose online or offline within seconds; wandb itself would wait for a minute and then fail."""

import hashlib
import os
from collections.abc import Mapping
from threading import Thread

from lightning_resnet.errors import UserError, printable
from lightning_resnet.machine import is_installed

CONNECT_S = 3.0  # seconds in which the server must accept a connection
# Seconds to wait for a refusal, where a training waits. A slow server counts as good, because it
# needs the remaining seconds to take the run.
GLANCE_S = 0.2
# What WANDB_MODE may be: the words of wandb's documentation, and three that it takes as well.
MODES = ("online", "offline", "disabled", "dryrun", "run", "shared")
KEY_VARIABLES = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
PATIENCE_S = 15.0  # seconds to wait for an answer where no training waits


def choose_mode(wanted: str, patient: bool = False) -> tuple[str, str]:
    """Choose the mode; WANDB_MODE decides where the user has chosen auto.

    Args:
        wanted: auto | online | offline | disabled; auto: online if a key is configured, else
            offline in a SLURM job, else disabled.
        patient: wait for an answer of the server, and require one.

    Returns:
        The mode, and the reason why it is not online, which may be empty.

    Raises:
        UserError: WANDB_MODE is no mode.
    """
    check_variables()
    mode = asked_for(wanted)
    if mode == "disabled":
        variable = os.environ.get("WANDB_MODE")
        if wanted == "auto" or variable in (None, "disabled"):
            return mode, ""
        return mode, f"wandb.mode says so, not WANDB_MODE={variable}: --wandb.mode {variable}"
    if not is_installed("wandb"):
        if wanted == "auto":
            return "disabled", ""
        return "disabled", "not installed: pip install 'wandb>=0.31,<0.32'"
    if mode in ("offline", "dryrun"):
        return "offline", ""
    if mode == "auto" and not may_have_key(os.environ):  # importing wandb takes seconds
        return without_key(), ""
    url = server()
    if not _key_for(url):
        if mode == "auto":
            return without_key(), ""
        there = "" if _is_own(url) else f" for {url}"
        return "offline", f"no key{there}: wandb login"
    if not _answers(url, patient):
        return "offline", f"{'the server' if _is_own(url) else url} does not answer"
    return "online", ""


def check_variables() -> None:
    """Remove empty WANDB_* variables, which wandb would not take for missing; check WANDB_MODE.

    Raises:
        UserError: WANDB_MODE is no mode.
    """
    for name, value in list(os.environ.items()):
        if name.startswith("WANDB_") and not value.strip():
            del os.environ[name]
    mode = os.environ.get("WANDB_MODE", "online")
    if mode not in MODES:
        raise UserError(
            f"WANDB_MODE={printable(mode)} is no mode: set it to online, offline or disabled, or "
            "unset it"
        )


def needs_wandb(wanted: str) -> bool:
    """Tell whether a training in this mode will import wandb."""
    mode = asked_for(wanted)
    if mode == "auto" and not may_have_key(os.environ):
        mode = without_key()
    return mode != "disabled" and is_installed("wandb")


def without_key() -> str:
    """Return the mode of auto without a key: a job's nodes rarely reach a server."""
    return "offline" if "SLURM_JOB_ID" in os.environ else "disabled"


def may_have_key(env: Mapping[str, str]) -> bool:
    """Tell whether a place where wandb finds its key exists, without importing wandb."""
    return any(env.get(name) for name in KEY_VARIABLES) or bool(netrc_files(env))


def netrc_files(env: Mapping[str, str]) -> list[str]:
    """Return the files that exist in which wandb looks for its key."""
    files = [env["NETRC"]] if env.get("NETRC") else ["~/.netrc", "~/_netrc"]
    return [file for file in map(os.path.expanduser, files) if os.path.exists(file)]


def _is_own(url: str) -> bool:
    """Tell whether a server is the one that wandb takes where none is named."""
    import wandb

    return url == wandb.Settings.model_fields["base_url"].default


def asked_for(wanted: str) -> str:
    """Return the mode that is asked for: for auto the value of WANDB_MODE, if there is one."""
    if wanted != "auto":
        return wanted
    return os.environ.get("WANDB_MODE") or wanted


def server() -> str:
    """Return the address of the W&B server."""
    import wandb

    return wandb.setup(wandb.Settings(silent=True)).settings.base_url


def key_mark(url: str) -> str:
    """Return ten hexadecimal digits that differ between keys for a server, and reveal no key."""
    return hashlib.sha256(_key_for(url).encode(errors="surrogateescape")).hexdigest()[:10]


def _key_for(url: str) -> str:
    """Return the key for a server, or the token's file; empty if there is none."""
    from wandb.sdk.lib.wbauth import read_netrc_auth

    for name in KEY_VARIABLES:
        if value := os.environ.get(name):
            return value
    try:
        return read_netrc_auth(host=url) or ""
    except Exception:  # wandb raises for a key of a wrong form
        return ""


def _answers(url: str, patient: bool) -> bool:
    """Tell whether a server accepts connections and does not refuse requests.

    The request is in a thread, because looking up a name may hang beyond any timeout.
    """
    import requests

    wait = PATIENCE_S if patient else GLANCE_S

    def ask() -> None:
        try:
            answers.append(requests.get(url, timeout=(CONNECT_S, wait)).status_code < 500)
        except requests.ReadTimeout:
            answers.append(not patient)
        except requests.RequestException:
            answers.append(False)

    answers: list[bool] = []
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CONNECT_S + wait)
    return any(answers)
