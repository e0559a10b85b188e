"""Fetch weights by name: from torchvision, timm, Hugging Face, or an address.

`--run.init_from torchvision:resnet50.IMAGENET1K_V2`, `timm:resnet50.a1_in1k`, `hf:ORG/REPO/FILE`,
`https://host/weights.pth#sha256=...`. The libraries' own functions fetch and keep the files, where
those libraries look for them too. Files are read as in `convert`: no code in them is run.
"""

import hashlib
import os
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

import torch
import torchvision
from torchvision.models import get_model, get_model_weights, list_models

from lightning_resnet.data.download import Failed, Limits, download, remove
from lightning_resnet.data.sources.base import IMAGENET_MEAN, IMAGENET_STD
from lightning_resnet.errors import UserError, one_line, tell
from lightning_resnet.files import locked
from lightning_resnet.machine import is_installed
from lightning_resnet.meant import refuse_unknown
from lightning_resnet.reading import parse_json, read_text
from lightning_resnet.weights.convert import checkpoint_of, is_ours, normalisation, read_file
from lightning_resnet.weights.layouts import RecognisedNet, State, recognise, unwrap

SILENCE_S = 20.0  # seconds that a server may take to answer, or to go on
TRIES = 3  # connections in a row that may bring nothing
LARGEST = 50_000_000_000  # bytes of a file of weights, at most
RESTARTS = 3  # times that Hugging Face's files may begin again
TORCH_FOLDER = "checkpoints"  # folder in which torch.hub keeps files of weights
LOOPBACK = ("127.0.0.1", "::1", "localhost")
HF_FILES = ("model.safetensors", "pytorch_model.bin")  # as Hugging Face's own libraries look for
SHA256 = re.compile(r"sha256=([0-9a-f]{64})")
IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.\w+$")  # first digits of a file's SHA-256, torch's custom
TORCH_HOST = "download.pytorch.org"  # of the files whose names end so without exception


class File(NamedTuple):
    """File of weights that a hub or an address has given.

    Attributes:
        path: where the library keeps the file.
        url: address of the file.
        sha256: hash of the file's content.
        is_new: whether the file has just been fetched.
    """

    path: Path
    url: str
    sha256: str
    is_new: bool = False


class Facts(NamedTuple):
    """What a hub tells about weights.

    Attributes:
        classes: names of the classes, in order of output; empty: not told.
        mean: mean of each channel in [0, 1].
        std: standard deviation of each channel in [0, 1].
        size: pixels per side of the images that the net evaluates; None: not told.
        share: side of the central square, as a share of the shorter side.
        model: name of the net in torchvision; empty elsewhere.
    """

    classes: Sequence[str] = ()
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    size: int | None = None
    share: float = 0.875
    model: str = ""


def fetch(name: str) -> tuple[File, Facts]:
    """Fetch the weights of a name, unless they are there already.

    Args:
        name: a name for which `runs.names.is_hub_name` is true.

    Raises:
        UserError: there are no such weights, they cannot be fetched, or they have another hash.
    """
    hub, _, rest = name.partition(":")
    if hub == "torchvision":
        return _torchvision(rest)
    if hub == "timm":
        return _timm(rest)
    if hub == "hf":
        return _hugging_face(rest)
    return _from_address(name), Facts()


def read_named(name: str) -> tuple[Path, dict[str, Any]]:
    """Return weights of a name as a checkpoint of ours.

    `checkpoint["run"]["origin"]` tells name, url and sha256.

    Args:
        name: a name for which `runs.names.is_hub_name` is true.

    Returns:
        The path of the fetched file, and the checkpoint.

    Raises:
        UserError: see `fetch`; or the file is damaged, or holds weights of no net of ours.
    """
    file, facts = fetch(name)
    try:
        content = read_file(file.path)
    except UserError as e:
        if not file.is_new:
            raise UserError(f"{e}; or delete it, and it is fetched again") from e
        file.path.unlink()
        raise UserError(
            f"{name} was cut off, or holds no weights alone, and is not kept: try again, or give "
            "the address of a net's state_dict"
        ) from e
    if not is_ours(content, name):
        content = _converted(name, content, facts)
    content["run"]["origin"] = {"name": name, "url": file.url, "sha256": file.sha256}
    return file.path, content


def _converted(name: str, content: Any, facts: Facts) -> dict[str, Any]:
    """Return the checkpoint of other people's weights."""
    try:
        state = unwrap(content)
        try:
            known = recognise(state)
        except UserError:
            if not facts.model:
                raise
            known = _of_torchvision(facts.model, content)
    except UserError as e:
        raise UserError(f"{name}: {e}") from e
    outputs = known.options.get("num_classes", 1000)
    classes = list(facts.classes)
    if classes and len(classes) != outputs:
        tell(
            f"warning: {name} names {len(classes):,} classes, and the net has {outputs:,} outputs: "
            "the names are left out; `resnet-cli convert FILE --classes NAMES` gives others",
            file=sys.stderr,
        )
        classes = []
    elif not classes and outputs == 1000:
        classes = imagenet_words()
    data = {"size": facts.size, "eval_share": facts.share} if facts.size else {}
    short = re.sub(r"[^\w.-]+", "_", name.partition(":")[2]).strip("._-")[-80:]
    checkpoint = checkpoint_of(known, short, classes, data)
    for key, values in (("mean", facts.mean), ("std", facts.std)):
        checkpoint["state_dict"][key] = torch.tensor(values).view(3, 1, 1) * 255
    return checkpoint


def _of_torchvision(model: str, state: State) -> RecognisedNet:
    """Return a net of torchvision's own, of any form, with its weights."""
    net = get_model(model, weights=None)
    try:
        net.load_state_dict(state)
    except RuntimeError as e:
        raise UserError(f"torchvision's {model} has other tensors: {one_line(e)[:200]}") from e
    return RecognisedNet(f"torchvision.models.{model}", {}, net.eval())


def imagenet_words() -> list[str]:
    """Return a word for each of ImageNet's 1000 classes, in order of label."""
    return list(get_model_weights("resnet18").DEFAULT.meta["categories"])


# -- torchvision -----------------------------------------------------------------------------------


def _torchvision(rest: str) -> tuple[File, Facts]:
    model, _, member = rest.partition(".")
    model = model.removesuffix("_Weights").lower()
    models = list_models(module=torchvision.models)
    known = get_model_weights(model) if model in models else ()
    refuse_unknown(
        "torchvision", model, member, dict.fromkeys(models, [weights.name for weights in known])
    )
    weights = known[member]
    seen = weights.transforms()
    facts = Facts(
        classes=weights.meta.get("categories", ()),
        mean=seen.mean,
        std=seen.std,
        size=seen.crop_size[0],
        share=min(1.0, seen.crop_size[0] / seen.resize_size[0]),
        model=model,
    )
    return _from_address(weights.url), facts


# -- timm ------------------------------------------------------------------------------------------


def _timm(rest: str) -> tuple[File, Facts]:
    if not is_installed("timm"):
        raise UserError(f"timm:{rest} needs timm: pip install timm")
    import timm
    from timm.models import get_pretrained_cfg, list_pretrained

    model, _, tag = rest.partition(".")
    tags = [name.partition(".")[2] for name in list_pretrained(f"{model}.*")]
    refuse_unknown("timm", model, tag, dict.fromkeys(timm.list_models(), tags))
    cfg = get_pretrained_cfg(rest)
    facts = _facts_of_cfg(cfg.to_dict(), _timm_classes(cfg))
    if cfg.hf_hub_id:
        files = [cfg.hf_hub_filename] if cfg.hf_hub_filename else HF_FILES
        return _from_repository(f"timm:{rest}", cfg.hf_hub_id, files), facts
    return _from_address(cfg.url), facts


def _timm_classes(cfg: Any) -> Sequence[str]:
    """Return timm's words for the classes of its weights; empty where it has none."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    if cfg.num_classes == 1000:
        return imagenet_words()
    subset = infer_imagenet_subset(cfg)
    if not subset:
        return ()
    return ImageNetInfo(subset).label_descriptions()


def _facts_of_cfg(cfg: dict[str, Any], classes: Sequence[str]) -> Facts:
    """Return what a `pretrained_cfg` of timm's tells."""
    size = cfg.get("input_size")
    return Facts(
        classes=classes,
        mean=normalisation("mean", cfg.get("mean") or IMAGENET_MEAN),
        std=normalisation("std", cfg.get("std") or IMAGENET_STD),
        size=size[-1] if size else None,
        share=min(1.0, cfg.get("crop_pct") or 0.875),
    )


# -- Hugging Face ----------------------------------------------------------------------------------


def _hugging_face(rest: str) -> tuple[File, Facts]:
    parts = rest.split("/", 2)
    if len(parts) < 2 or not all(parts):
        raise UserError(f"hf:{rest}: write hf:ORG/REPO, or hf:ORG/REPO/FILE")
    repository = "/".join(parts[:2])
    files = parts[2:] or HF_FILES
    file = _from_repository(f"hf:{rest}", repository, files)
    told = _config_of(f"hf:{rest}", repository)
    cfg = told.get("pretrained_cfg")
    cfg = cfg if isinstance(cfg, dict) else told
    names = told.get("label_names") or cfg.get("label_names") or _labels(told.get("id2label"))
    described = told.get("label_descriptions")
    if isinstance(described, dict) and isinstance(names, list):
        names = [described.get(name, name) for name in names]
    classes = [str(name) for name in names] if isinstance(names, list) else []
    try:
        return file, _facts_of_cfg(cfg, classes)
    except (TypeError, LookupError, ValueError) as e:
        raise UserError(f"hf:{rest}: its config.json is not like timm's: {one_line(e)}") from e


def _labels(mapping: Any) -> list[str]:
    """Return the class names in a config.json of transformers, in order of label."""
    if not isinstance(mapping, dict):
        return []
    return [mapping[key] for key in sorted(mapping, key=lambda key: (len(key), key))]


def _config_of(name: str, repository: str) -> dict[str, Any]:
    """Return the config.json of a repository; empty without one.

    Raises:
        UserError: the file is there and cannot be fetched or read, or nothing tells whether it is.
    """
    file = _first_in_repository(name, repository, ["config.json"])
    if file is None:
        return {}
    try:
        content = parse_json(read_text(file.path))
    except ValueError as e:
        raise UserError(f"{name}: its config.json cannot be read: {one_line(e)}") from e
    return content if isinstance(content, dict) else {}


def _from_repository(name: str, repository: str, files: Sequence[str]) -> File:
    """Fetch the first of these files that a repository on Hugging Face has.

    Raises:
        UserError: there is no such file, or it cannot be fetched, or has another hash.
    """
    file = _first_in_repository(name, repository, files)
    if file is None:
        repository = repository.partition("@")[0]
        raise UserError(
            f"{name}: {repository} has no {' or '.join(files)}: name the file, hf:{repository}/FILE"
        )
    return file


def _first_in_repository(name: str, repository: str, files: Sequence[str]) -> File | None:
    """Fetch the first of these files that a repository on Hugging Face has; None: it has none.

    A revision may follow the repository: `ORG/REPO@REVISION`. Where nothing answers, a file counts
    as missing if it was missing when Hugging Face answered last.

    Raises:
        UserError: a file cannot be fetched, or has another hash.
    """
    if not is_installed("huggingface_hub"):
        raise UserError(f"{name} needs huggingface_hub: pip install huggingface_hub")
    from huggingface_hub import (
        _CACHED_NO_EXIST,
        constants,
        get_hf_file_metadata,
        hf_hub_download,
        hf_hub_url,
        try_to_load_from_cache,
    )
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # each repeated request would be a warning
    repository, _, revision = repository.partition("@")
    of = {"revision": revision or None}
    for file in files:
        try:
            url = hf_hub_url(repository, file, **of)
            try:
                path = hf_hub_download(repository, file, **of, local_files_only=True)
            except LocalEntryNotFoundError:
                # answers at once where nothing does; `hf_hub_download` asks for half a minute
                with suppress(EntryNotFoundError):  # the next function notes that, and raises
                    get_hf_file_metadata(url, timeout=SILENCE_S)
                path = hf_hub_download(repository, file, **of, tqdm_class=_progress_bar())
        except EntryNotFoundError as e:
            is_told = not isinstance(e, LocalEntryNotFoundError)
            if is_told or try_to_load_from_cache(repository, file, **of) is _CACHED_NO_EXIST:
                continue
            raise _unreachable(name, repository, file, url, e.__cause__ or e) from e
        except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as e:
            asked = " ".join([repository, *([f"at {revision}"] if revision else [])])
            raise UserError(
                f"{name}: {constants.ENDPOINT} has no {asked} that you may read: look at the "
                "spelling, or `hf auth login`"
            ) from e
        except Exception as e:  # of several HTTP libraries, by version
            if try_to_load_from_cache(repository, file, **of) is _CACHED_NO_EXIST:
                continue
            raise _unreachable(name, repository, file, url, e) from e
        found = Path(path)
        digest = _digest(found)
        # large files are kept under their SHA-256
        kept_as = found.resolve().name
        if re.fullmatch(r"[0-9a-f]{64}", kept_as) and kept_as != digest:
            raise UserError(
                f"{found.resolve()} has another SHA-256 than Hugging Face tells: delete it, and it "
                "is fetched again"
            )
        return File(found, url, digest)
    return None


def _progress_bar() -> type:
    """Return Hugging Face's progress bar, which gives up where a file begins again and again.

    Their function repeats without end where a server cuts off, and sends all again when asked for
    the rest.
    """
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        restarts = 0

        def update(self, n: float | None = 1) -> bool | None:
            self.restarts += (n or 0) < 0
            if self.restarts > RESTARTS:
                raise OSError(f"cut off {RESTARTS} times")
            return super().update(n)

    return Bar


def _unreachable(name: str, repository: str, file: str, url: str, why: BaseException) -> UserError:
    """Return the error that says what to fetch, and where to put it."""
    from huggingface_hub import constants

    kept = Path(constants.HF_HUB_CACHE, f"models--{repository.replace('/', '--')}")
    return UserError(
        f"{name} cannot be fetched from {url} ({_why(why)}): where there is a network, `hf "
        f"download {repository} {file}` fetches it; copy its folder to {kept}"
    )


# -- addresses -------------------------------------------------------------------------------------


def _from_address(url: str) -> File:
    """Fetch a file into torch.hub's folder, unless it is there, and check its hash.

    The hash stands after `#sha256=`, or its first digits stand in the name, as torch has it. A file
    without gets a prefix, because other addresses may end in the same name. Digits without a letter
    are a date on other hosts than torch's.
    """
    address, _, fragment = url.partition("#")
    parts = urlsplit(address)
    name = Path(unquote(parts.path)).name
    told = SHA256.fullmatch(fragment.lower())
    if not name or not parts.hostname or (fragment and not told):
        raise UserError(
            f"{url}: an address ends in the name of a file, and may go on with #sha256= and 64 "
            "hexadecimal digits"
        )
    in_name = IN_NAME.search(name)
    if in_name and in_name[1].isdecimal() and parts.hostname != TORCH_HOST:
        in_name = None
    if told:
        wanted = told[1]
    else:
        wanted = in_name[1] if in_name else ""
    if parts.scheme == "http" and not wanted and parts.hostname not in LOOPBACK:
        raise UserError(f"{url} is not encrypted: add #sha256=..., or use https")
    if not in_name:
        name = f"{hashlib.sha256(address.encode()).hexdigest()[:8]}-{name}"
    path = Path(os.path.join(torch.hub.get_dir(), TORCH_FOLDER, name))
    is_new = not path.exists()
    if is_new:
        _download(address, path, wanted)
    digest = _digest(path)
    if not digest.startswith(wanted):
        raise UserError(
            f"{path} has the SHA-256 {digest}, not {wanted}: delete it, and it is fetched again"
        )
    return File(path, address, digest, is_new)


def _download(url: str, path: Path, wanted: str) -> None:
    """Fetch a file, or continue; its name is taken once the file is complete.

    Raises:
        UserError: what went wrong, what to fetch, and where to put it.
    """
    tell(f"fetching {url} to {path}", file=sys.stderr)
    part = path.with_name(f"{path.name}.part")
    limits = Limits(silence_s=SILENCE_S, tries=TRIES, largest=LARGEST)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f"{path.name}.lock")
        with locked(lock, part, f"put the file to {path}"):
            try:
                if not path.exists():  # another process may have fetched it
                    with redirect_stdout(sys.stderr):  # stdout is for results
                        download(url, part, has_floor=False, limits=limits)
                    _keep(url, part, path, wanted)
            finally:
                lock.unlink(missing_ok=True)
    except (OSError, Failed) as e:
        why = (isinstance(e, OSError) and e.strerror) or one_line(e)
        raise UserError(
            f"{url} cannot be fetched ({why}): fetch it elsewhere, and put it to {path}"
        ) from e


def _keep(url: str, part: Path, path: Path, wanted: str) -> None:
    """Give a fetched file its name, if the file has the hash that is wanted."""
    digest = _digest(part)
    if not digest.startswith(wanted):
        remove(part)
        raise UserError(
            f"{url} was cut off or changed on its way, and is not kept (SHA-256 {digest}, not "
            f"{wanted}): try again, or give the right hash after the address, as #sha256=..."
        )
    part.replace(path)
    remove(part)


def _why(error: BaseException) -> str:
    """Return in few words why something could not be fetched."""
    first = error
    while error is not None:
        if isinstance(error, HTTPError):
            return f"it answers {error.code} {error.reason}"
        if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
            return f"silent for {SILENCE_S:g} s"
        if isinstance(error, URLError) and isinstance(error.reason, BaseException):
            error = error.reason
        elif isinstance(error, OSError) and error.strerror:
            return error.strerror
        else:
            error = error.__cause__ or error.__context__
    return one_line(first)[:200]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
