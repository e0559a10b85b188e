"""Online or offline: decided within seconds, before wandb would wait for a minute and then fail."""

import os
from contextlib import suppress
from importlib.util import find_spec
from threading import Thread

PROBE_S = 3.0  # seconds the server has to answer: then training goes on offline


def choose_mode(wanted: str) -> tuple[str, str]:
    """The mode, and why it is not online where it might have been; WANDB_MODE decides what the user left to us."""
    mode = os.environ.get("WANDB_MODE") or wanted if wanted == "auto" else wanted
    if mode == "disabled":
        return mode, ""
    if not find_spec("wandb"):
        return "disabled", "" if wanted == "auto" else "not installed: pip install 'wandb>=0.31,<0.32'"
    if mode in ("offline", "dryrun"):
        return "offline", ""
    url = _server()
    if not _key_for(url):
        return "offline", f"no key for {url}: wandb login"
    return ("online", "") if _answers(url) else ("offline", f"{url} does not answer within {PROBE_S:.0f} s")


def _server() -> str:
    import wandb

    return wandb.setup(wandb.Settings(silent=True)).settings.base_url


def _key_for(url: str) -> bool:
    from wandb.sdk.lib.wbauth import read_netrc_auth

    if any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    try:
        return bool(read_netrc_auth(host=url))
    except Exception:  # a key that is none
        return False


def _answers(url: str) -> bool:
    """Whether anything comes back; in a thread, because looking up a name can hang for longer than any timeout."""
    import requests

    def ask() -> None:
        with suppress(requests.RequestException):
            if requests.get(url, timeout=PROBE_S).status_code < 500:
                answers.append(True)

    answers: list[bool] = []
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_S)
    return bool(answers)
