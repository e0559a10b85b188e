"""Secrets through every way in: afterwards no byte of a run, a sweep, W&B's files or the output
holds one.
"""

import base64
import json
import os
import re
import stat
import sys
import time
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from helpers.command_line import REPOSITORY, TINY
from helpers.waiting import wait_for

from lightning_resnet import credentials
from lightning_resnet.cli.main import VERBS, shielded
from lightning_resnet.credentials import (
    refuse_secret_exports,
    refuse_secret_flags,
    refuse_secrets,
    sourced,
)
from lightning_resnet.errors import UserError, tell
from lightning_resnet.masking import mask
from lightning_resnet.sweeps import points

SECRET = "Zq7-hunter.2024-wIl0w"  # named as one, in no list of known keys
LIVE = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b"  # in the environment
SHORT = [
    *TINY,
    "--trainer.max_epochs",
    "1",
    "--trainer.limit_train_batches",
    "1",
    "--trainer.limit_val_batches",
    "1",
]
MODULE = """
import os
import warnings
from pytorch_lightning import Callback
from lightning_resnet.errors import UserError

class Keeper(Callback):
    def __init__(self, options: dict | None = None, url: str = "", api_key: str = "",
                 token: str | None = None, value: str = os.environ.get("MY_SERVICE_TOKEN", "")):
        pass

class Teller(Callback):
    def __init__(self, how: str = "error"):
        self.how = how

    def on_train_start(self, trainer, task):
        kinds = {"error": RuntimeError, "user": UserError, "os": OSError, "value": ValueError}
        key = os.environ['WANDB_API_KEY']
        raise kinds[self.how](f"no access for {key} to https://me:" + "PASSWORD@host/x")
""".replace("PASSWORD", SECRET)


class World:
    """A folder of inputs next to the empty one where the command runs, and what the command leaves
    there.
    """

    def __init__(self, folder, patch, captured):
        self.inputs, self.outputs = folder / "inputs", folder / "outputs"
        self.inputs.mkdir()
        self.outputs.mkdir()
        self.patch, self.captured = patch, captured
        self.write("keeper.py", MODULE)
        patch.chdir(self.outputs)
        patch.syspath_prepend(str(self.inputs))
        patch.setenv("NETRC", str(folder / "netrc"))
        patch.setenv("HOME", str(folder))
        patch.setattr("sys.path", [*sys.path])

    def write(self, name, content):
        """Write an input; returns its path."""
        path = self.inputs / name
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return str(path)

    def run(self, *argv):
        """Exit status and output of a command."""
        self.captured.readouterr()
        code = shielded([str(word) for word in argv])
        shown = self.captured.readouterr()
        return code, shown.out + shown.err

    def found(self, shown=""):
        """Where a secret is, in any form."""
        held = {str(p): p.read_bytes() for p in self.outputs.rglob("*") if p.is_file()} | {
            "output": shown.encode()
        }
        names = "\n".join(map(str, self.outputs.rglob("*"))).encode()
        return [
            (where, secret)
            for where, content in (held | {"names": names}).items()
            for secret in (SECRET, LIVE)
            for form in forms(secret)
            if form in content
        ]


def forms(secret):
    plain = secret.encode()
    return [
        plain,
        quote(secret).encode(),
        base64.b64encode(plain)[:-4],
        base64.b64encode(b"me:" + plain)[4:-4],
    ]


@pytest.fixture
def world(tmp_path, monkeypatch, capfd):
    for name in [name for name in os.environ if re.search("WANDB_API|TOKEN|SECRET|PASSW", name)]:
        monkeypatch.delenv(name)
    yield World(tmp_path, monkeypatch, capfd)
    if "wandb" in sys.modules:  # its process works in the folder where it began
        sys.modules["wandb"].teardown()
        os.environ.pop("WANDB_SERVICE", None)


def keeper(**arguments):
    return {"class_path": "keeper.Keeper", "init_args": arguments}


def as_flag(**arguments):
    """A callback as JSON on the command line."""
    return lambda w: [*SHORT, "--trainer.callbacks", json.dumps([keeper(**arguments)])]


def in_recipe(content):
    return lambda w: [*SHORT, "--config", w.write("r.yaml", content)]


def in_options(options):
    return in_recipe({"trainer": {"callbacks": [keeper(options=options)]}})


def nested_list(w):
    return [*SHORT, "--trainer.callbacks", w.write("cb.yaml", [keeper(api_key=SECRET)])]


def nested_trainer(w):
    return [
        *SHORT,
        "--trainer",
        w.write("trainer.yaml", {"callbacks": [keeper(token=SECRET)], "max_epochs": 1}),
    ]


def nested_in_recipe(w):
    w.write("cb.yaml", [keeper(options={"password": SECRET})])
    return [*SHORT, "--config", w.write("r.yaml", {"trainer": {"callbacks": "cb.yaml"}})]


def nested_json(w):
    return [
        *SHORT,
        "--trainer.callbacks",
        w.write("cb.json", json.dumps([keeper(options={"headers": {"X-Auth": SECRET}})])),
    ]


def broken_nested(w):
    return [
        *SHORT,
        "--trainer.callbacks",
        w.write("cb.yaml", [keeper(nothing={"api_key": SECRET})]),
    ]


def printed(w):
    """The parser itself would print the full configuration, and end."""
    return [*nested_list(w), "--print_config"]


def deeper(w):
    w.write("cb.yaml", [keeper(options={"passwd": SECRET})])
    w.write("trainer.yaml", {"callbacks": "cb.yaml"})
    return [*SHORT, "--config", w.write("r.yaml", {"trainer": "trainer.yaml"})]


def aliased(w):
    """A text that stands in a recipe once, under a harmless name, and is used under another."""
    text = (
        f"x: &a {{deep: &b {SECRET}}}\ntrainer: "
        f"{{callbacks: [{{class_path: keeper.Keeper, init_args: {{options: "
    )
    return [*SHORT, "--config", w.write("r.yaml", text + "{credentials: *a, token: *b}}}]}\n")]


def broken_recipe(w):
    return [*SHORT, "--config", w.write("r.yaml", f"wandb:\n  api_key: '{SECRET}'\n bad: : x\n")]


def live(where):
    def way(w):
        w.patch.setenv("WANDB_API_KEY", LIVE)
        return where(LIVE)(w)

    return way


def variable(name, value, argv=()):
    def way(w):
        w.patch.setenv("WANDB_API_KEY", LIVE)
        w.patch.setenv(name, value)
        return [*SHORT, *argv]

    return way


def default_of_a_class(w):
    w.write("fresh.py", MODULE)  # a default is made where the class is
    w.patch.setenv("MY_SERVICE_TOKEN", LIVE)
    return [*SHORT, "--trainer.callbacks+=fresh.Keeper"]


def of_a_file(name, content):
    """A live secret that only a file of the user's holds."""

    def way(w):
        path = w.inputs.parent / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        return [*SHORT, "--run.name", f"x{LIVE}"]

    return way


STYLES = """
    api_key apiKey api-key API_KEY ApiKey apikey api_keys my_api_key wandbApiKey api_key_prod
    api_key_2 access_token accessToken hub_token hubtoken HF_TOKEN token tokens password passwd
    userPassword DB_PASSWORD passphrase secret client_secret clientSecret secrets
    aws_secret_access_key private_key privateKey credentials auth basic_auth authorization
    Authorization Proxy-Authorization X-Api-Key bearer oauth2 jwt cookie pwd
""".split()
REFUSED = {
    **{f"named {name}": in_options({name: SECRET}) for name in STYLES},
    "JSON flag": as_flag(api_key=SECRET),
    "JSON flag, dict": as_flag(options={"deep": [{"password": SECRET}]}),
    "dict flag": lambda w: [
        *SHORT,
        "--trainer.callbacks+=keeper.Keeper",
        f"--trainer.callbacks.options={{token: {SECRET}}}",
    ],
    "key of a dict flag": lambda w: [
        *SHORT,
        "--trainer.callbacks+=keeper.Keeper",
        "--trainer.callbacks.options.api_key",
        SECRET,
    ],
    "plain flag": lambda w: [*SHORT, "--wandb.api_key", SECRET],
    "equals flag": lambda w: [*SHORT, f"--wandb.apiKey={SECRET}"],
    "nested list file": nested_list,
    "nested trainer file": nested_trainer,
    "file in a recipe": nested_in_recipe,
    "nested JSON file": nested_json,
    "nested file with an error": broken_nested,
    "recipe with an error": broken_recipe,
    "printed configuration": printed,
    "file in a file in a recipe": deeper,
    "alias": aliased,
    "list": in_options({"api_keys": [SECRET, "b"]}),
    "dict of tokens": in_options({"tokens": {"hub": SECRET}}),
    "dict of credentials": in_options({"credentials": {"user": "me", "code": SECRET}}),
    "header": in_options({"headers": {"Authorization": f"Bearer {SECRET}"}}),
    "header in a list": in_options({"headers": [f"Authorization: Bearer {SECRET}"]}),
    "bearer under any name": in_options({"x": f"Bearer {SECRET}"}),
    "basic under any name": in_options(
        {"x": "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()}
    ),
    "address": as_flag(url=f"https://me:{SECRET}@host/x"),
    "address without a user": as_flag(url=f"redis://:{SECRET}@host/0"),
    "address of a database": in_recipe(
        {"data": {"source": {"class_path": "x", "init_args": {"u": f"pg://m:{SECRET}@h"}}}}
    ),
    "query": as_flag(url=f"https://host/x?size=3&token={SECRET}"),
    "signed query": as_flag(url=f"https://host/x?api_key={SECRET}#top"),
    "text with a flag": in_options({"note": f"begun with --api-key {SECRET}"}),
    "text that is JSON": in_options({"note": json.dumps({"password": SECRET})}),
    "form of a token": in_options({"note": "ghp_" + "a1B2" * 9}),
    "name of the run": live(lambda s: lambda w: [*SHORT, "--run.name", s]),
    "root of the run": live(lambda s: lambda w: [*SHORT, "--run.root", f"r/{s}"]),
    "project": live(lambda s: in_recipe({"wandb": {"project": f"p-{s}"}})),
    "entity": live(lambda s: lambda w: [*SHORT, f"--wandb.entity={s}"]),
    "live in an option": live(lambda s: in_options({"x": f"a {s} b"})),
    "live as a key": live(lambda s: in_options({s: 1})),
    "live in base64": live(
        lambda s: in_options({"x": base64.b64encode(f"me:{s}".encode()).decode()})
    ),
    "live in a query": live(lambda s: in_options({"x": f"https://h/?q={quote(s)}"})),
    "live in capitals": live(lambda s: lambda w: [*SHORT, "--run.name", s.upper()]),
    "live in capitals in a recipe": live(lambda s: in_recipe({"wandb": {"project": s.upper()}})),
    "live in two items": live(lambda s: in_options({"x": [s[:15], s[15:]]})),
    "live in two flags": live(
        lambda s: lambda w: [*SHORT, "--run.name", s[:20], "--wandb.project", s[20:]]
    ),
    "live as key and value": live(lambda s: in_options({s[:17]: s[17:]})),
    "live in a folded text": live(
        lambda s: in_recipe(f"wandb:\n  project: >-\n    {s[:20]}\n    {s[20:]}\n")
    ),
    "default of a class": default_of_a_class,
    "notes": variable("WANDB_NOTES", f"with {LIVE}"),
    "tags": variable("WANDB_TAGS", f"a,password={SECRET}"),
    "group": variable("WANDB_RUN_GROUP", LIVE),
    "netrc": of_a_file("netrc", f"machine api.wandb.ai login user password {LIVE}\n"),
    "torn netrc": of_a_file("netrc", f"machine api.wandb.ai nonsense password {LIVE}\n"),
    "AWS file": of_a_file(".aws/credentials", f"[default]\naws_secret_access_key = {LIVE}\n"),
    "git file": of_a_file(".git-credentials", f"https://me:{LIVE}@github.com\n"),
    "hub file": of_a_file(".cache/huggingface/token", LIVE),
    **{
        f"live in {name}": variable(name, SECRET, ["--run.name", f"x{SECRET}"])
        for name in (
            "AWS_SECRET_ACCESS_KEY",
            "GITHUB_PAT",
            "HF_TOKEN",
            "TOKEN_OF_HUB",
            "DB_PASS",
            "MYSQL_PWD",
            "AZURE_KEY",
        )
    },
    "proxy": variable(
        "HTTPS_PROXY", f"http://me:{SECRET}@127.0.0.1:9", ["--run.name", f"x{SECRET}"]
    ),
}


@pytest.mark.parametrize("way", REFUSED)
def test_a_way_in_is_refused_before_anything_is_written(world, way):
    code, shown = world.run("fit", *REFUSED[way](world))
    assert code == 2 and shown.count("\n") == 1 and shown.startswith("error: "), shown
    assert world.found(shown) == [] and not list(world.outputs.iterdir())


ALSO = [
    {"hf token": SECRET},
    {"api": {"key": SECRET}},
    {"aws": {"secret": {"access": {"key": SECRET}}}},
    {"api_key": [{"a": SECRET}]},
    {"passwords": {"a": {"b": SECRET}}},
    {"Passwort": SECRET},
    {"user_pw": SECRET},
    {"tokenHub": SECRET},
    {"accessKeyId": "AKIAIOSFODNN7EXAMPLE"},
    {"headers": {"Cookie": f"session={SECRET}"}},
    {"headers": "Authorization: Token " + SECRET},
    {"hook": "https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX"},
    {"url": "https://x/y?X-Amz-Signature=abcdef0123456789abcdef0123456789"},
    {"url": "https://x/y?sig=abcDEF123456ghiJKL789%3D"},
    {"url": "https://ghp_abcdefghijklmnopqrst0123@github.com/x"},
    {"url": f"mysql+pymysql://u:{SECRET}@h/db"},
    {"url": f"https://user:pa/ss{SECRET}@host"},
    {"proxy": f"user:{SECRET}@proxy:3128"},
    {"text": f"Server=x;User Id=sa;Password={SECRET};"},
    {"text": f"the password is {SECRET}"},
    {"command": ["--password", SECRET]},
    {"command": ["curl", "-H", f"Authorization: Bearer {SECRET}"]},
    {"ssh": "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END"},
    {"live": LIVE.encode().hex()},
    {"live": base64.urlsafe_b64encode(b"xx" + LIVE.encode() + b"yy").decode()},
    {"live": "p%40ssw0rd9"},
    {"live": "p@ssw0rd9"},
    {"live": "mysqlpw99"},
    {f"x{LIVE}y": None},
    {"x": LIVE.upper()},
    {"x": LIVE[:9] + "\n    " + LIVE[9:]},
    {"x": LIVE[:9] + '" + "' + LIVE[9:20].upper() + "\\\n" + LIVE[20:]},
    {"x": [LIVE[:13], LIVE[13:26], LIVE[26:]]},
    {"x": LIVE[:20], "y": [[], {"z": LIVE[20:]}]},
    {LIVE[:20]: LIVE[20:]},
    {LIVE[:20]: [LIVE[20:30], LIVE[30:]]},
    {LIVE[:20]: 1, LIVE[20:]: 2},
    {LIVE[:20]: {LIVE[20:]: 1}},
    {
        "x": [
            base64.b64encode(LIVE.encode()).decode()[:25],
            base64.b64encode(LIVE.encode()).decode()[25:],
        ]
    },
]


@pytest.mark.parametrize("config", ALSO, ids=[*map(str, range(len(ALSO)))])
def test_further_texts_that_are_secrets(monkeypatch, config):
    monkeypatch.setenv("WANDB_API_KEY", LIVE)
    monkeypatch.setenv("DATABASE_URL", "postgres://user:p%40ssw0rd9@db:5432/x")
    monkeypatch.setenv("MYSQL_OPTIONS", "--user=a --password=mysqlpw99")
    with pytest.raises(UserError, match="remove it") as e:
        refuse_secrets({"trainer": config})
    assert SECRET not in str(e.value) and LIVE[:9] not in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize(
    "text",
    [
        f"fatal: unable to access 'https://me:{SECRET}@github.com/x/': 403",
        f"Max retries exceeded with url: /a?api_key={SECRET} (Caused by)",
        f"headers={{'Authorization': 'Bearer {SECRET}'}}",
        f"Wandb(api_key={SECRET!r}, x=1)",
        f"login failed for user 'a' with password '{SECRET}'",
        f'env: {{"GITHUB_TOKEN": "{SECRET}"}}',
        f'{{\\"password\\": \\"{SECRET}\\"}}',
        f"KeyError: '{LIVE}'",
        f"{LIVE.encode()!r}\nline {LIVE}",
        f"no access for {LIVE.upper()}",
        f"no access for {LIVE[:20]}\n  {LIVE[20:]}: 403",
    ],
)
def test_errors_of_others(monkeypatch, text):
    monkeypatch.setenv("WANDB_API_KEY", LIVE)
    together = re.sub(r"\W", "", mask(text)).lower()
    assert SECRET not in mask(text) and LIVE not in together and "***" in mask(text)


@pytest.mark.parametrize(
    "piece",
    ["a-", "a", "a ", "a:", "//a:", "a=", "sk-", "eyJ", "bearer ", "--a ", "token_", "aB", "'"],
)
def test_long_texts_take_no_long_time(piece):
    seconds = []
    for length in (8_000, 64_000):
        began = time.process_time()
        mask(piece * (length // len(piece)))
        seconds.append(time.process_time() - began)
    assert seconds[1] < 32 * max(
        seconds[0], 0.01
    )  # about 8 times; by the square of the length it were 64


@pytest.mark.parametrize("value", [123456789012345, -8675309.25, 2024_01_01])
@pytest.mark.parametrize("name", ["password", "api_key", "client_secret"])
def test_numbers_too(name, value):
    with pytest.raises(UserError, match=f"sets a.{name}, a secret"):
        refuse_secrets({"a": {name: value}})


HARMLESS = {
    "tokenizer": "bert-base-uncased",
    "key_words": "a b",
    "keywords": ["deep", "residual"],
    "num_tokens": 197,
    "max_tokens": 100_000_000,
    "tokens": 15e12,
    "class_token": True,
    "cls_token": "mean",
    "pool": "token",
    "token_dropout": 0.1,
    "token_type": "cls",
    "token_labels": "/data/labels",
    "token_mixing": "mlp",
    "tokens_per_image": 49,
    "author": "He et al.",
    "authors": ["Kaiming He"],
    "secretary": "x",
    "keypoints": 17,
    "key_dim": 64,
    "num_keys": 8,
    "keys": ["conv1", "layer1.0"],
    "query_key_norm": True,
    "qkv_bias": True,
    "sort_key": "val/acc1",
    "key": "val/loss",
    "state_dict_key": "model_ema",
    "data_key": "train",
    "code": "e102483abc",
    "git_sha": LIVE[::-1],
    "point": "0123456789",
    "commit": LIVE[::-1],
    "run_id": "3e69836295",
    "monkey": "x",
    "keyboard": "us",
    "donkey": "y",
    "turkey": "z",
    "password": None,
    "token": "",
    "api_key": "none",
    "auth": False,
    "authenticated": True,
    "unauthorized": "skip",
    "password_file": "/run/x",
    "token_path": "~/x",
    "credentials_file": "x.json",
    "auth_mode": "netrc",
    "secret_name": "db",
    "passes": 3,
    "n_pass": 2,
    "bypass": "none",
    "compass": "north",
    "credit": "photo by A. B.",
    "pin_memory": True,
    "url": "https://host:8080/x?size=3",
    "git": "git@github.com:a/b.git",
    "ssh": "ssh://git@github.com/a/b",
    "s3": "s3://bucket/key/train.beton",
    "path": "/data/user@host:x/y",
    "email": "a.b@example.org",
    "text": "a basic block of resnet-110",
    "prose": "token: must be a number",
    "net": "basic torchvision.models.resnet18",
    "note": "passwords are kept in ~/.netrc",
    "device": "sk-learn-digits-resnet-depth",
    "time": "12:30:00",
    "version": "torch 2.13.0",
    "window": "C:\\data\\train",
    "formula": "key=value",
    "monitor": "val/acc1",
    "alpha": 1e-3,
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_only_looks_like_a_secret_passes(world, name):
    world.patch.setenv("WANDB_API_KEY", LIVE)
    refuse_secrets({"model": {"net": {name: HARMLESS[name]}}})
    refuse_secret_flags([f"--model.net.{name}={json.dumps(HARMLESS[name])}"])
    text = f"{name}: {HARMLESS[name]}"
    assert mask(f"cannot read {text}") == f"cannot read {text}"


def test_a_live_password_of_words_is_met_only_as_it_is(world):
    """Texts that read alike are no secret: a password of words and a number may be a name too."""
    for name, value in {
        "DB_PASSWORD": "resnet-digits-110",
        "SORT_KEY": "Val/Accuracy/Top1",
        "PIN_TOKEN": "3" * 20,
    }.items():
        world.patch.setenv(name, value)
        refuse_secrets(
            {"a": [value[:6].upper(), value[6:].upper()], "b": f"{value[:6]} {value[6:]}"}
        )


def test_all_recipes_pass():
    for recipe in sorted((REPOSITORY / "configs").rglob("*.yaml")):
        refuse_secrets(yaml.safe_load(recipe.read_text()), str(recipe))


@pytest.mark.parametrize("how", ["error", "user", "os", "value"])
def test_an_error_that_holds_a_secret(world, how):
    world.patch.setenv("WANDB_API_KEY", LIVE)
    flags = [
        "--trainer.callbacks",
        json.dumps([{"class_path": "keeper.Teller", "init_args": {"how": how}}]),
    ]
    code, shown = world.run(
        "fit", *SHORT, *flags, "--wandb.mode", "offline", "--wandb.details", "true"
    )
    assert code in (1, 2) and "no access for *** to https://me:***@host" in shown
    assert list(world.outputs.rglob("*.wandb")) and list(world.outputs.rglob("attempts/1.json"))
    assert world.found(shown) == []


def test_a_run_next_to_live_secrets(world):
    """Variables of all kinds, a proxy and an address that hold one: the run and W&B's
    files do not.
    """
    for name in (
        "WANDB_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "GITHUB_PAT",
        "HF_TOKEN",
        "SBATCH_PASSWORD",
    ):
        world.patch.setenv(name, LIVE)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        world.patch.setenv(name, f"http://me:{SECRET}@127.0.0.1:9")
    world.patch.setenv("WANDB_BASE_URL", f"http://me:{SECRET}@127.0.0.1:9")
    code, shown = world.run("fit", *SHORT, "--wandb.mode", "online", "--wandb.details", "true")
    assert code == 0 and "W&B: " in shown
    assert list(world.outputs.rglob("config.yaml")) and world.found(shown) == []


@pytest.mark.slow
def test_the_log_of_a_sweeps_run(world):
    """A process of its own, which prints the traceback itself."""
    world.patch.setenv("WANDB_API_KEY", LIVE)
    world.patch.setenv("PYTHONPATH", str(world.inputs))
    teller = {"class_path": "keeper.Teller", "init_args": {"how": "error"}}
    recipe = world.write(
        "teller.yaml", {"trainer": {"callbacks": [teller]}, "wandb": {"mode": "offline"}}
    )
    command = [*SWEEP["command"][:-2], "--config", recipe, *SWEEP["command"][-2:]]
    sweep = SWEEP | {"command": command, "parameters": {"seed_everything": {"value": 0}}}
    code, shown = world.run("sweep", world.write("s.yaml", sweep), "--local")
    (log,) = world.outputs.rglob("points/*.log")
    assert (
        code == 1
        and "Traceback" in log.read_text()
        and "RuntimeError: no access for ***" in log.read_text()
    )
    assert list(world.outputs.rglob("*.wandb")) and world.found(shown) == []


def test_a_run_of_others_is_not_uploaded_with_a_secret(world):
    """An older version wrote it so."""
    from lightning_resnet.tracking.upload import Uploader

    run = world.outputs / "runs/x/0123456789"
    (run / "attempts").mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump({"wandb": {}, "model": {"hub_token": "abc"}}))
    (run / "metrics.jsonl").write_text("{}\n")
    assert Uploader(world.inputs).upload([run]) == 1
    assert "config.yaml sets model.hub_token, a secret" in world.captured.readouterr().out


SWEEP = {
    "method": "grid",
    "command": ["${env}", "resnet-cli", "fit", *TINY, "--config", "${args_json_file}"],
    "parameters": {"seed_everything": {"values": [0, 1]}},
}


def with_word(word, before="--config"):
    """The sweep with a further word in its command."""
    command = list(SWEEP["command"])
    command.insert(command.index(before), word)
    return {"command": command}


SWEEPS = {
    "parameter": {"parameters": {"trainer.api_key": {"value": SECRET}}},
    "parameter of several values": {"parameters": {"x.token": {"values": [SECRET, "b"]}}},
    "nested parameter": {"parameters": {"x": {"parameters": {"password": {"value": SECRET}}}}},
    "value under any name": {"parameters": {"x.url": {"value": f"https://me:{SECRET}@host"}}},
    "callbacks as a value": {
        "parameters": {"trainer.callbacks": {"value": [keeper(options={"authToken": SECRET})]}}
    },
    "flag": with_word(f"--trainer.hub_token={SECRET}"),
    "JSON flag": with_word("--trainer.callbacks=" + json.dumps([keeper(api_key=SECRET)])),
    "variable before the command": with_word(f"WANDB_API_KEY={SECRET}", "resnet-cli"),
    "name": {"name": f"digits-{LIVE}"},
    "description": {"description": f"run it with WANDB_API_KEY={SECRET}"},
    "description with a live one": {"description": f"the key is {LIVE}"},
    "project": {"project": LIVE},
    "program": {"program": f"train.py --password {SECRET}"},
}
OPTIONS = {
    "export with =": [f"--export=ALL,WANDB_API_KEY={SECRET}"],
    "export of another": [f"--export=ALL,AWS_SECRET_ACCESS_KEY={SECRET}"],
    "export as a word": ["--export", f"ALL,GITHUB_TOKEN={SECRET}"],
    "export first": [f"--export=DB_PASSWORD={SECRET},ALL"],
    "export of a live one": [f"--export=ALL,X={LIVE}"],
    "comment": [f"--comment=token={SECRET}"],
    "wrap": ["--wrap", f"env HF_TOKEN={SECRET} resnet-cli fit"],
    "job name": ["--job-name", LIVE],
    "password": ["--password", SECRET],
}


@pytest.fixture
def sbatch(world):
    """A stand-in that takes every job."""
    folder = world.inputs / "bin"
    folder.mkdir()
    (folder / "sbatch").write_text("#!/bin/sh\necho 7\n")
    (folder / "sbatch").chmod(stat.S_IRWXU)
    world.patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    world.patch.setenv("WANDB_API_KEY", LIVE)


@pytest.mark.parametrize("how", ["--list", "--local", "--submit"])
@pytest.mark.parametrize("way", SWEEPS)
def test_a_way_into_a_sweep_is_refused(world, sbatch, way, how):
    code, shown = world.run("sweep", world.write("s.yaml", SWEEP | SWEEPS[way]), how)
    assert code == 2 and shown.startswith("error: ") and "remove it" in shown
    assert world.found(shown) == [] and not list(world.outputs.iterdir())


@pytest.mark.parametrize("way", SWEEPS)
def test_a_way_into_a_file_that_is_not_named_as_yaml(world, way):
    world.patch.setenv("WANDB_API_KEY", LIVE)
    with pytest.raises(UserError, match="remove it"):
        points.read(world.write("sweep", SWEEP | SWEEPS[way]))


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "sweep"])
def test_every_verb_looks_at_its_flags_first(world, verb):
    """Some keep their command in what they write."""
    for words in (
        ["--hub-token", SECRET],
        [f"--x=https://me:{SECRET}@host"],
        ["x", f"WANDB_API_KEY={SECRET}"],
    ):
        code, shown = world.run(verb, *words)
        assert code == 2 and "remove it" in shown and world.found(shown) == []


@pytest.mark.parametrize("how", ["--submit", "--retry-failed"])
@pytest.mark.parametrize("way", OPTIONS)
def test_a_way_through_sbatch_is_refused(world, sbatch, way, how):
    code, shown = world.run(
        "sweep", world.write("s.yaml", SWEEP), how, "--", "--time", "1", *OPTIONS[way]
    )
    assert code == 2 and shown.startswith("error: ") and "remove it" in shown
    assert world.found(shown) == [] and not list(world.outputs.iterdir())


SITES = {
    "export": "export WANDB_API_KEY=KEY",
    "indented": "if true; then\n  export WANDB_API_KEY=KEY\nfi",
    "bare": "GITHUB_TOKEN=KEY",
    "declare": "declare -x AWS_SECRET_ACCESS_KEY=KEY",
    "typeset": "typeset -x HF_TOKEN='KEY'",
    "readonly": 'readonly DB_PASSWORD="KEY"',
    "several on a line": "export A=1 MY_SECRET=KEY B=2",
    "after a semicolon": "export A=1; export API_TOKEN=KEY",
    "after a mark in quotes": 'X="# "; export WANDB_API_KEY=KEY',
    "default": ': "${WANDB_API_KEY:=KEY}"',
    "default of what is unset": ': "${WANDB_API_KEY=KEY}"',
    "quoted name": 'export "WANDB_API_KEY=KEY"',
    "name in parts": "export WANDB_API_K''EY=KEY",
    "appended": "WANDB_API_KEY=; WANDB_API_KEY+=KEY",
    "printf": "printf -v WANDB_API_KEY %s KEY",
    "read": "read -r WANDB_API_KEY <<< KEY",
    "eval": 'eval "export WANDB_API_""K""EY=KEY"',
    "another file": ". ./other.env",
    "address": "export http_proxy=http://me:KEY@proxy:3128",
    "export to sbatch": "export SBATCH_EXPORT=ALL,WANDB_API_KEY=KEY",
    "line for sbatch": "#SBATCH --export=ALL,WANDB_API_KEY=KEY",
    "live": "export NOTE=LIVE",
    "live in capitals": 'export NOTE="$(echo LIVE | tr a-z A-Z)"',
    "live in a continued line": "export NOTE=LI\\\nVE",
    "continued line": "export \\\n  WANDB_API_KEY=\\\nKEY",
    "command": "export WANDB_API_KEY=$(echo KEY)",
    "loop": "for n in WANDB_API_KEY; do export $n=KEY; done",
    "array": "declare -A K=([a]=KEY); export AWS_SECRET_KEY=${K[a]}",
}


@pytest.mark.parametrize("way", SITES)
def test_a_way_through_the_sites_file_is_refused(world, sbatch, way):
    Path("other.env").write_text(f"export WANDB_API_KEY={SECRET}\n")
    world.patch.delenv("WANDB_API_KEY")
    world.patch.setenv("MY_TOKEN", LIVE)
    text = re.sub(r"(?<![A-Z_])KEY\b", SECRET, SITES[way]).replace("LIVE", LIVE)
    text = text.replace("LI\\\nVE", f"{LIVE[:20]}\\\n{LIVE[20:]}")
    world.patch.setenv("SITE_ENV", world.write("site.env", f"export SBATCH_ACCOUNT=lab\n{text}\n"))
    code, shown = world.run("sweep", world.write("s.yaml", SWEEP), "--submit")
    Path("other.env").unlink()
    assert code == 2 and "Slurm would show to others" in shown
    assert world.found(shown) == [] and not list(world.outputs.iterdir())


def test_a_sites_file_without_a_secret(world, sbatch):
    example = (REPOSITORY / "slurm/site.env.example").read_text().replace("# export", "export")
    site = world.write(
        "site.env", f"# export WANDB_API_KEY=x\n{example}\nexport TOKENIZERS_PARALLELISM=false\n"
    )
    refuse_secret_exports(Path(site))
    assert (
        sourced(Path(site))["SBATCH_ACCOUNT"] == "mylab"
        and os.environ.get("SBATCH_ACCOUNT") is None
    )
    world.patch.setenv("SITE_ENV", site)
    code, shown = world.run("sweep", world.write("s.yaml", SWEEP), "--submit")
    assert code == 0 and world.found(shown) == [] and list(world.outputs.rglob("about.json"))


def is_over(job):
    """Tell whether a process has ended; it may still wait for a parent that asks how."""
    stat = Path(f"/proc/{job}/stat")
    return not stat.exists() or ") Z " in stat.read_text()


def test_a_job_that_a_sites_file_leaves_behind_holds_nothing_up(world):
    site = world.write("site.env", "sleep 77 &\nexport SITE_JOB=$!\n")
    job = sourced(Path(site))["SITE_JOB"]
    wait_for(lambda: is_over(job))


def test_a_sites_file_that_waits_is_ended_with_its_jobs(world, monkeypatch):
    monkeypatch.setattr(credentials, "SOURCE_S", 0.5)
    site = world.write("site.env", "sleep 77 &\necho $! > job\nsleep 77\n")
    with pytest.raises(UserError, match="did not end within 0.5 s"):
        sourced(Path(site))
    wait_for(lambda: is_over(Path("job").read_text().strip()))


def test_what_is_printed(world, capfd):
    world.patch.setenv("WANDB_API_KEY", LIVE)
    tell(
        f"key {LIVE}, https://me:{SECRET}@host, 'api_key': '{SECRET}', password={SECRET}, "
        f"--token {SECRET}"
    )
    shown = capfd.readouterr().out
    assert (
        world.found(shown) == []
        and "key ***, https://me:***@host, 'api_key': '***', password=***" in shown
    )
