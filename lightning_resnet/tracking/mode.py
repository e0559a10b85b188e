"""Choose online or offline within seconds; wandb itself would wait for a minute and then fail."""

import os
from importlib.util import find_spec
from threading import Thread

CONNECT_S = 3.0  # seconds in which the server must accept a connection
# Seconds to wait for a refusal, where a training waits. A slow server counts as good, because it
# needs the remaining seconds to take the run.
GLANCE_S = 0.2
PATIENCE_S = 15.0  # seconds to wait for an answer where no training waits


def choose_mode(wanted: str, patient: bool = False) -> tuple[str, str]:
    """Choose the mode; WANDB_MODE decides where the user has chosen auto.

    Args:
        wanted: auto | online | offline | disabled.
        patient: wait for an answer of the server, and require one.

    Returns:
        The mode, and the reason why it is not online, which may be empty.
    """
    mode = asked_for(wanted)
    if mode == "disabled":
        return mode, ""
    if not find_spec("wandb"):
        if wanted == "auto":
            return "disabled", ""
        return "disabled", "not installed: pip install 'wandb>=0.31,<0.32'"
    if mode in ("offline", "dryrun"):
        return "offline", ""
    url = _server()
    if not _key_for(url):
        return "offline", f"no key for {url}: wandb login"
    if not _answers(url, patient):
        return "offline", f"{url} does not answer"
    return "online", ""


def asked_for(wanted: str) -> str:
    """Return the mode that is asked for: for auto the value of WANDB_MODE, if there is one."""
    if wanted != "auto":
        return wanted
    return os.environ.get("WANDB_MODE") or wanted


def _server() -> str:
    """Return the address of the W&B server."""
    import wandb

    return wandb.setup(wandb.Settings(silent=True)).settings.base_url


def _key_for(url: str) -> bool:
    """Tell whether there is a key for a server."""
    from wandb.sdk.lib.wbauth import read_netrc_auth

    if any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    try:
        return bool(read_netrc_auth(host=url))
    except Exception:  # wandb raises for a key of a wrong form
        return False


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
