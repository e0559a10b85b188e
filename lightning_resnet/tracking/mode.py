"""Online or offline: decided within seconds, before wandb would wait for a minute and then fail."""

import os
from importlib.util import find_spec
from threading import Thread

CONNECT_S = 3.0  # seconds until the server takes a connection: then training goes on offline
GLANCE_S = 0.2  # and in which a refusal is heeded; a server that is only slow needs the seconds to take the run
PATIENCE_S = 15.0  # to wait for an answer where no training waits


def choose_mode(wanted: str, patient: bool = False) -> tuple[str, str]:
    """The mode, and why it is not online where it might have been; WANDB_MODE decides what the user left to us.

    Args:
        wanted: auto | online | offline | disabled.
        patient: insist on an answer, and wait for it.
    """
    mode = asked_for(wanted)
    if mode == "disabled":
        return mode, ""
    if not find_spec("wandb"):
        return "disabled", "" if wanted == "auto" else "not installed: pip install 'wandb>=0.31,<0.32'"
    if mode in ("offline", "dryrun"):
        return "offline", ""
    url = _server()
    if not _key_for(url):
        return "offline", f"no key for {url}: wandb login"
    return ("online", "") if _answers(url, patient) else ("offline", f"{url} does not answer")


def asked_for(wanted: str) -> str:
    """The mode, where WANDB_MODE may decide; auto: to be found out."""
    return os.environ.get("WANDB_MODE") or wanted if wanted == "auto" else wanted


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


def _answers(url: str, patient: bool) -> bool:
    """Whether it takes a connection and refuses nothing; in a thread: looking up a name may hang beyond any timeout."""
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
