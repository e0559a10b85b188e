"""No key or token reaches a file: what sets one is refused, naming the key and never its value."""

import os
from pathlib import Path

import pytest
import yaml
from helpers.command_line import REPOSITORY, TINY

from lightning_resnet.credentials import refuse_secret_exports, refuse_secret_flags, refuse_secrets
from lightning_resnet.errors import UserError

KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def no_netrc(tmp_path, monkeypatch):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def refused(function, *args):
    with pytest.raises(UserError, match="~/.netrc") as e:
        function(*args)
    assert KEY not in str(e.value) and "\n" not in str(e.value)
    return str(e.value)


@pytest.mark.parametrize(
    "name", ["api_key", "token", "secret", "password", "hub_token", "API_KEY", "aws.secret"]
)
def test_a_configuration_that_sets_a_secret(name):
    assert f"r.yaml sets wandb.{name}" in refused(refuse_secrets, {"wandb": {name: KEY}}, "r.yaml")
    assert f"sets a.{name}" in refused(refuse_secrets, {f"a.{name}": [KEY]})


def test_what_only_looks_like_one():
    refuse_secrets(
        {
            "num_tokens": 4,
            "net": {"class_token": True, "pool": "token"},
            "api_key": None,
            "token": "",
        }
    )
    refuse_secret_flags(["--model.net.tokens", "4", "--data.source", "Tokens"])


@pytest.mark.parametrize(
    "args", [["--wandb.api_key", KEY], [f"--token={KEY}"], ["--x", "1", "--a.password", "p"]]
)
def test_a_flag_that_sets_a_secret(args):
    refused(refuse_secret_flags, args)


def test_the_live_key_under_any_name(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert "sets run.name" in refused(refuse_secrets, {"run": {"name": f"x-{KEY}"}})
    refused(refuse_secret_flags, ["--run.name", KEY])
    monkeypatch.delenv("WANDB_API_KEY")
    refuse_secrets({"run": {"name": KEY}})
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
    refused(refuse_secrets, {"run": {"name": KEY}})


def test_a_site_file_that_sets_a_secret(tmp_path):
    site = tmp_path / "site.env"
    site.write_text("# export WANDB_API_KEY=x\nexport SBATCH_ACCOUNT=a\n")
    refuse_secret_exports(site)
    for line in (
        "export WANDB_API_KEY=x",
        "  TOKEN=x",
        "export A=1 MY_SECRET=x",
        "readonly DB_PASSWORD=$(cat f)",
    ):
        site.write_text(f"export SBATCH_ACCOUNT=a\n{line}\n")
        refused(refuse_secret_exports, site)


def holding(key):
    """Files that hold it, under this folder."""
    return [
        path for path in Path().rglob("*") if path.is_file() and key.encode() in path.read_bytes()
    ]


@pytest.fixture
def no_wandb_left():
    """Its process works in the folder where it began."""
    wandb = pytest.importorskip("wandb")
    yield
    wandb.teardown()
    os.environ.pop("WANDB_SERVICE", None)


def test_no_file_of_a_run_holds_the_key(cli, monkeypatch, tmp_path, no_wandb_left):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("NETRC", str(tmp_path.parent / f"{tmp_path.name}-netrc"))
    theirs = KEY[::-1]
    Path(tmp_path.parent, f"{tmp_path.name}-netrc").write_text(
        f"machine a.b login user password {theirs}\n"
    )
    flags = [
        *TINY,
        "--trainer.max_epochs",
        "1",
        "--wandb.mode",
        "offline",
        "--wandb.details",
        "true",
    ]
    assert cli("fit", *flags)[0] == 0
    assert list(Path().rglob("*.wandb")) and not holding(KEY) and not holding(theirs)
    for secret in (KEY, theirs):
        Path("r.yaml").write_text(f"run: {{name: x{secret}}}\n")
        for args in (["--config", "r.yaml"], ["--run.name", secret], [f"--wandb.api_key={secret}"]):
            code, out, err = cli("fit", *flags, *args)
            assert code == 2 and secret not in out + err and "remove it" in err
        assert [path.name for path in holding(secret)] == ["r.yaml"]


@pytest.mark.parametrize(
    ("name", "flag", "option"),
    [
        ("a.token", "--x=1", "--time=1"),
        ("a.b", f"--secret={KEY}", "--time=1"),
        ("a.b", "--x=1", f"--export=API_KEY={KEY}"),
        ("a.b", "--x=1", f"--export ALL,API_KEY={KEY}"),
    ],
)
@pytest.mark.parametrize("how", ["--list", "--local", "--submit"])
def test_no_file_of_a_sweep_holds_a_secret(cli, name, flag, option, how):
    command = [
        "fit",
        "--config",
        f"{REPOSITORY}/configs/digits.yaml",
        flag,
        "--config",
        "${args_json_file}",
    ]
    value = KEY if name == "a.token" else 1
    Path("s.yaml").write_text(
        yaml.safe_dump(
            {"method": "grid", "command": command, "parameters": {name: {"value": value}}}
        )
    )
    code, out, err = cli("sweep", "s.yaml", how, "--", *option.split())
    assert code == 2 and "remove it" in err and KEY not in out + err and not Path("runs").exists()
