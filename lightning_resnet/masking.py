"""Find and mask secrets in texts; all code that prints or records a message uses this module.

Recipes and flags with secrets are refused by credentials.py.
"""

import base64
import json
import os
import re
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

STARS = "***"
# Patterns of names, in lower case with _ between the words. The value of such a name is a secret.
SURE = re.compile(
    r"passw|kennw|passphrase|passcode|secret(?!ar)|credential|bearer|authori[sz]ation"
    r"|(api|access|private|signing|encryption|account|auth|ssh|deploy|master|service|storage"
    r"|subscription)_?keys?(?![a-z])"
    r"|(?<![a-z])(o?auth2?|pwd|creds?|jwt|cookies?)(?![a-z])"
)
# The same for two nested keys, joined by _.
JOINED = re.compile(r"(api|access|private|secret|auth|encryption|signing)_keys?$")
# A token is a secret, or a piece of text or of an image.
TOKEN = re.compile(r"token(s?)(?![a-z])")
# The value of such a name may be a secret, or a public key, the part of a net, a number of passes;
# so the value must look like a secret too.
MAYBE = re.compile(r"(keys?|(?<![a-z])(pat|pass|pw|sig|signature|sas|webhook))(?![a-z])")
# A name that ends in such a word describes a secret: password_file, token_type, auth_mode.
ABOUT = (
    "file files path dir folder name names env var variable type kind mode policy length len size "
    "dim dims count num min max url uri endpoint host sock provider backend method scheme rounds "
    "ttl expiry timeout retries required"
).split()
# A token whose name has such a word is a piece of text or of an image.
PIECES = (
    "n num number max min class cls mask pad unk sep bos eos dist distill register special prefix "
    "suffix extra per patch image text vocab use with has keep prune merge mix next first last "
    "total"
).split()
# A name that has such a word after `token` still is a secret's: token_value, token_github.
STILL = (
    "value values string str text new old prod dev test staging live main default primary "
    "secondary read write hub hf wandb github gitlab api server user admin"
).split()
# The last of several nested keys if it says nothing about the value.
GENERIC = {*STILL, "data", "content", "init_args", "dict_kwargs", "const", "constant"}
# Values that hold no secret.
EMPTY = set("none null true false auto default env netrc required optional".split()) | {"", STARS}
# Texts that are secrets by their form. Repetitions have bounds, because without bounds the search
# takes time quadratic in the length of the text.
ADDRESS = re.compile(
    r"""//[^\s/@:\[]{0,100}:(?P<secret>(?!\d{1,5}/)[^\s@"']{1,200})(?=@)"""
    r"""|(?<![\w/])[\w.+-]{1,60}+:(?P<bare>[^\s@:/"']{6,100})(?=@(?!sha\d)[\w-]+(?:\.[\w-]|:\d))"""
)
ADDRESS_TOKEN = re.compile(r"://(?P<secret>[^\s/@:]{16,})(?=@)")
HEADER = re.compile(
    r"""\b(?P<kind>bearer|basic|token|password(?:\s+is)?"""
    r"""|authorization["']?\s*[:=]\s*["']?\w+)\s+["']?"""
    r"""(?P<secret>[\w+/=.~-]{8,})""",
    re.I,
)
FORMS = re.compile(
    r"(?P<secret>-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[opsur]_\w{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"
    r"|\bhf_[A-Za-z0-9]{20,}"
    r"|hooks\.slack\.com/services/[\w/]+|/api/webhooks/\d+/[\w-]+|\bsk_(?:live|test)_\w{10,}"
    r"|\bsk-(?=[\w-]{0,80}\d)(?=[\w-]{0,80}[A-Z])[\w-]{20,}|\bxox[abeprs]-[\w-]{10,}"
    r"|\bAIza[\w-]{30,}"
    r"|\beyJ[\w-]{8,300}\.eyJ[\w-]{8,}[\w.-]*|\bdckr_pat_[\w-]{16,}|\bnpm_[A-Za-z0-9]{30,}"
    r"|\bpypi-AgE[\w-]{20,}"
    r"|\bwandb_v\d_\w{20,}|\bnvapi-[\w-]{20,}|\bya29\.[\w-]{20,}|\bSG\.[\w-]{16,60}\.[\w-]{16,})"
)
# name=value, "name": value, --name value. The value is in a lookahead, because the value may hold
# the next pair.
PAIR = re.compile(
    r"""(?P<flag>--)?(?<!\w)(?P<name>[A-Za-z_][\w.-]{0,120}+)"""
    r"""(?P<sign>["'\]\\]{0,4}+\s{0,9}+(?:=>|:=|\+=|=|:)\s{0,9}+\\?|(?(flag)\s{1,9}+|(?!)))"""
    r"""(?=(?P<secret>"[^"]{0,2000}"|'[^']{0,2000}'|[^\s,;&"'}\])\\]{1,2000}))"""
)
# Files in the home folder that hold secrets of their user.
FILES = (
    ".netrc _netrc .aws/credentials .git-credentials .config/gh/hosts.yml .cache/huggingface/token "
    ".kaggle/kaggle.json .docker/config.json .pypirc"
).split()
# Variables that name such files.
FILE_VARIABLES = ("NETRC", "AWS_SHARED_CREDENTIALS_FILE", "HF_TOKEN_PATH")
SHORT = 8  # characters; a shorter text may occur anywhere by chance
LONG = 12  # characters; so may a shorter word of letters
UNMISTAKABLE = 16  # letters and digits; as many random ones never follow one another by chance
LARGEST = 1 << 20  # bytes of a recipe


def mask(text: str) -> str:
    """Return the text with stars in place of each secret."""
    known = live()
    # Secrets that the text shows by their form are masked wherever else the text has them.
    shown = [secret for secret in _secrets_in(text) if _may_be_live(secret)]
    forms: set[str] = set()
    for secret in (*known, *shown):
        forms.update(encodings(secret))
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, STARS)
    if found_run_together(text, known):
        letters: set[str] = set()
        for secret in known:
            letters.update(run_together_forms(secret))
        for form in letters:
            text = re.sub(r"[\W_]*+".join(form), STARS, text, flags=re.I)
    spans = sorted(match.span(_group(match)) for _, match in secrets_by_form(text))
    for start, end in reversed(spans):
        if STARS not in text[start:end]:
            text = text[:start] + STARS + text[end:]
    return text


def live() -> dict[str, str]:
    """Return the secrets of this process's user, each with its origin.

    They come from the environment and from well-known files.
    """
    home = Path(os.path.expanduser("~"))
    files = [home / name for name in FILES]
    files += [Path(os.environ[name]) for name in FILE_VARIABLES if name in os.environ]
    return _live(tuple(os.environ.items()), tuple((file, _stamp(file)) for file in files))


@lru_cache(4)
def _live(
    variables: tuple[tuple[str, str], ...], files: tuple[tuple[Path, Any], ...]
) -> dict[str, str]:
    """Return the secrets in these variables and files; the arguments are the key of the cache."""
    found: dict[str, str] = {}
    for name, value in variables:
        words = words_of(name)
        if SURE.search(words) or TOKEN.search(words) or MAYBE.search(words):
            found |= dict.fromkeys([value, *value.splitlines()], name)
        found |= dict.fromkeys(_secrets_in(value), name)
    for file, stamp in files:
        if stamp:
            found |= dict.fromkeys(_secrets_in_file(file), str(file))
    return {secret: origin for secret, origin in found.items() if _may_be_live(secret)}


def _stamp(file: Path) -> tuple[int, int] | None:
    """Return size and time of a file, which tell whether it has changed; None if it is no file."""
    try:
        status = file.stat()
    except OSError:
        return None
    readable = stat.S_ISREG(status.st_mode) and status.st_size <= LARGEST
    return (status.st_size, status.st_mtime_ns) if readable else None


def is_secret_name(name: str) -> bool:
    """Tell whether a variable or key of this name holds a secret."""
    words = words_of(name)
    return bool(SURE.search(words) or TOKEN.search(words)) and not _is_about(words)


def is_named_secret(key: str, value: Any) -> bool:
    """Tell whether a dotted key's name says that its value is a secret."""
    if value is None or isinstance(value, bool) or text_of(value).strip().lower() in EMPTY:
        return False
    parts = [words_of(part) for part in key.split(".")]
    while len(parts) > 1 and (parts[-1] in GENERIC or parts[-1].isdigit()):
        parts.pop()
    *above, words = parts
    if above and JOINED.search(f"{above[-1]}_{words}"):
        return True
    if any(SURE.search(part) and not _is_about(part) for part in above):
        return isinstance(value, str) and words != "class_path" and not _is_about(words)
    if any(TOKEN.search(part) and not _is_about(part) for part in above):
        return _is_token("tokens", True, value)
    if SURE.search(words):
        if _is_about(words) or set(words.split("_")) & set(PIECES):
            return isinstance(value, str) and _is_random(value)
        return isinstance(value, str) or "auth" not in words.split("_")
    if token := TOKEN.search(words):
        return _is_token(words, bool(token[1]), value)
    if words.split("_")[-1] in ("pass", "pw", "pat", "tok"):
        return isinstance(value, str) and bool(re.fullmatch(r"(?=.*\d)(?=.*[A-Za-z])\S{6,}", value))
    return bool(MAYBE.search(words)) and _is_random(text_of(value))


def _is_token(words: str, plural: bool, value: Any) -> bool:
    """Tell whether a token is one for a server, not a piece of a text or an image."""
    if _is_about(words) or set(words.split("_")) & set(PIECES):
        return _is_random(text_of(value))
    if plural:
        if not isinstance(value, str) or len(value) < SHORT:
            return False
        return bool(re.fullmatch(r"(?=.*\d)(?=.*[A-Za-z])\S+", value))
    if isinstance(value, int | float):
        return abs(float(value)) >= 1e7
    return isinstance(value, str)


def _is_about(words: str) -> bool:
    """Tell whether a name describes a secret, as token_file, auth_mode and token_dropout do."""
    last = words.split("_")[-1]
    if last in ABOUT:
        return True
    tokens = list(TOKEN.finditer(words))
    if not tokens or SURE.search(words):
        return False
    after = words[tokens[-1].end() :].strip("_")
    return bool(after) and not re.fullmatch(r"\d+", after) and after not in STILL


def words_of(name: str) -> str:
    """Return a name, in whatever style, in lower case with _ between the words."""
    if name in ("PWD", "OLDPWD"):  # the shell's working directory
        return "folder"
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return re.sub(r"[\W_]+", "_", parted).strip("_").lower()


def _is_random(text: str) -> bool:
    """Tell whether a text looks random: letters and digits mixed, and no word in it."""
    return (
        bool(re.fullmatch(r"[\w+/=.~%-]{16,}", text))
        and len(re.findall(r"\d", text)) >= 2
        and bool(re.search(r"[A-Za-z]", text))
        and not re.search(r"[a-z]{7,}|[A-Z]{7,}", text)
    )


def _is_secret_pair(match: re.Match[str]) -> bool:
    """Tell whether a name and value in a text are a secret; `token: must be a number` is none."""
    value = match["secret"].strip("\"'")
    if re.fullmatch(r"\$\w*|\$\{\w+\}|\$\(.*", value) or not is_named_secret(match["name"], value):
        return False
    sure = "=" in match["sign"] or match["flag"] or match["secret"][0] in "\"'"
    return bool(sure) or len(value) >= (SHORT if re.search(r"\d", value) else 16)


def _is_header(match: re.Match[str]) -> bool:
    """Tell whether a text is an HTTP header that authenticates a request; `basic block` is none."""
    if match["kind"].lower() == "bearer":
        return True
    if match["kind"].lower() == "token":
        return _is_random(match["secret"])
    if match["kind"].lower() != "basic":
        return bool(re.search(r"\d", match["secret"]))
    try:
        return b":" in base64.b64decode(match["secret"], validate=True)
    except ValueError:
        return False


def secrets_by_form(text: str) -> Iterator[tuple[str, re.Match[str]]]:
    """Yield the secrets that a text shows by its form, each with a description."""
    for match in FORMS.finditer(text):
        yield "a token", match
    for match in ADDRESS.finditer(text):
        yield "a password in an address", match
    for match in ADDRESS_TOKEN.finditer(text):
        if _is_random(match["secret"]):
            yield "a token in an address", match
    for match in HEADER.finditer(text):
        if _is_header(match):
            yield "a token", match
    for match in PAIR.finditer(text):
        if _is_secret_pair(match):
            yield f"a value for {match['name']}", match


def _group(match: re.Match[str]) -> str:
    """Return the name of the group that matched the secret."""
    return "bare" if match.groupdict().get("bare") else "secret"


def found_run_together(text: str, known: dict[str, str]) -> str:
    """Describe the live secret in a text, whatever its case and with any marks within it.

    Marks are characters other than letters and digits, such as line ends and quotes. The result is
    empty if there is no secret.
    """
    together = run_together(text)
    for secret, origin in known.items():
        if any(form in together for form in run_together_forms(secret)):
            return f"the secret that {origin} holds"
    return ""


def _secrets_in(text: str) -> list[str]:
    """Return the secrets that a text shows by its form, and the lines of each."""
    found = []
    for _, match in secrets_by_form(text):
        secret = match[_group(match)].strip("\"'")
        found += [secret, *re.split(r"\n|\\n", secret)]
    return found


def _secrets_in_file(file: Path) -> list[str]:
    """Return the secrets in a well-known file."""
    try:
        text = file.read_text(errors="replace")
    except OSError:
        return []
    found = _secrets_in(text)
    if "netrc" in file.name or file.name == os.path.basename(os.environ.get("NETRC", "-")):
        found += [value.strip('"') for value in re.findall(r"\bpassword\s+(\S+)", text)]
    if file.suffix == ".json":  # kaggle's key, docker's auth
        found += re.findall(r'"(?:key|auth)"\s*:\s*"([^"]+)"', text)
    if file.name == "token":
        found.append(text.strip())
    return found


def _may_be_live(text: str) -> bool:
    """Tell whether a text is no path, and too long to occur elsewhere by chance."""
    if len(text) < SHORT or (len(text) < LONG and text.isalpha()) or text.lower() in EMPTY:
        return False
    return not text.startswith(("/", "~", "./")) or any(
        _is_random(part) for part in text.split("/")
    )


def run_together(text: str) -> str:
    """Return the letters and digits of a text, in lower case."""
    return re.sub(r"[\W_]+", "", text.casefold())


@lru_cache(256)
def run_together_forms(secret: str) -> tuple[str, ...]:
    """Return the encodings of a secret with their letters and digits alone.

    The result is empty for a secret that might occur in other texts by chance.
    """
    has_digits = len(re.findall(r"\d", secret)) >= 2
    is_random = has_digits and not re.search(r"[a-z]{7,}|[A-Z]{7,}", secret)
    is_hexadecimal = re.fullmatch(r"[\da-fA-F]+", secret)
    if not (is_random or is_hexadecimal) or not re.search(r"[A-Za-z]", secret):
        return ()
    forms = {run_together(form) for form in encodings(secret)}
    return tuple(form for form in forms if len(form) >= UNMISTAKABLE)


@lru_cache(256)
def encodings(secret: str) -> tuple[str, ...]:
    """Return the secret as it is, in an address, in JSON, in hexadecimal and in base64.

    The base64 of a text depends on the position of the secret in the text modulo 3, so there are
    three forms.
    """
    data = secret.encode(errors="surrogateescape")
    forms = {
        secret,
        quote(data, safe=""),
        unquote(secret),
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
        data.hex(),
    }
    if len(data) < LONG:
        return tuple(forms)
    # (bytes before the secret, characters of base64 that depend on these bytes)
    for bytes_before, cut in ((0, 0), (1, 2), (2, 3)):
        end = (bytes_before + len(data)) // 3 * 3 - bytes_before
        text = base64.b64encode(b"\0" * bytes_before + data[:end]).decode()[cut:]
        forms |= {text, text.translate(str.maketrans("+/", "-_"))}
    return tuple(forms)


def text_of(value: Any) -> str:
    """Return the text of a value in a configuration."""
    if isinstance(value, bytes):
        return value.decode("latin1")
    if isinstance(value, int) and value.bit_length() > 10_000:  # too long for Python's str()
        return hex(value)
    return str(value)
