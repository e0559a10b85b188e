"""Weights by name: fetched once, checked, used as their hub says; errors name a cure."""

import io
import json
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from helpers.command_line import REPOSITORY
from helpers.hub import serving
from helpers.run_dir import only_run
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save

from lightning_resnet.data.download import Limits
from lightning_resnet.errors import UserError
from lightning_resnet.runs.identity import run_id
from lightning_resnet.weights import hubs
from lightning_resnet.weights.trained import load

TIMM = "/timm/resnet18.a1_in1k/resolve/main/model.safetensors"
FINETUNE = (
    "fit --config finetune.yaml --trainer.accelerator cpu --run.threads 1 --trainer.max_epochs 1 "
    "--data.size 32 --data.batch_size 4 --data.workers 0 --run.init_from"
).split()
RECIPE = """
model: {net: {class_path: ImageNetResNet, init_args: {depth: 18, num_classes: 3}}}
data:
  source: {class_path: ImageFolder, init_args: {root: photos}}
  crop: resized
wandb: {mode: disabled}
"""


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return torchvision.models.resnet18().eval()


@pytest.fixture(scope="module")
def pth(net):
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    return file.getvalue()


@pytest.fixture
def hub(tmp_path, monkeypatch, net):
    """Run a hub in place of all others, with empty caches."""
    torch.hub.set_dir(str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(hubs, "SILENCE_S", 1.0)
    monkeypatch.setattr(hubs, "Limits", partial(Limits, pause_s=0.01))
    with serving() as hub:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        hub.put(TIMM, save(net.state_dict()))
        yield hub
    torch.hub._hub_dir = None


@pytest.fixture
def image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 280, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


def predicted(trained, image):
    names = trained.class_names()
    pixels = trained.experiment.data.eval_augment
    return names, pixels.size, round(pixels.share, 3)


def test_timms_weights_predict_as_in_timm(cli, hub, net, image):
    code, out, err = cli("predict", image, "--ckpt_path", "timm:resnet18.a1_in1k", "--format=json")
    assert code == 0, err
    trained = load("timm:resnet18.a1_in1k")
    assert predicted(trained, image) == (hubs.imagenet_words(), 224, 0.95)
    assert hub.asked.count(TIMM) == 3  # twice about it and once for it; then never again
    theirs = timm.create_model("resnet18").eval()
    theirs.load_state_dict(net.state_dict())
    config = timm.data.resolve_data_config({}, model=theirs) | {"interpolation": "bilinear"}
    config["crop_pct"] = 0.95
    seen = timm.data.create_transform(**config)(Image.open(image))
    with torch.no_grad():
        wanted = theirs(seen[None]).softmax(1)[0]
    best = json.loads(out)[0]["top"][0]
    assert best["class"] == hubs.imagenet_words()[int(wanted.argmax())]
    assert abs(best["probability"] - float(wanted.max())) < 0.05


def test_torchvisions_weights_are_fetched_once_to_torchs_folder(cli, hub, pth, image, monkeypatch):
    digest = hub.put("/made", pth)
    url = f"{hub.url}/models/resnet18-{digest[:8]}.pth"
    hub.put(f"/elsewhere/resnet18-{digest[:8]}.pth", pth)
    hub.redirects[f"/models/resnet18-{digest[:8]}.pth"] = f"/elsewhere/resnet18-{digest[:8]}.pth"
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    monkeypatch.setitem(vars(weights.value), "url", url)
    for _ in range(2):
        code, out, err = cli("predict", image, "--ckpt_path", "torchvision:resnet18.IMAGENET1K_V1")
        assert code == 0 and f"resnet18-{digest[:8]}.pth" not in out, err
    assert len(hub.asked) == 2
    file = Path(torch.hub.get_dir(), "checkpoints", f"resnet18-{digest[:8]}.pth")
    file.write_bytes(pth[:-1] + b"x")
    code, out, err = cli("predict", image, "--ckpt_path", "torchvision:resnet18.IMAGENET1K_V1")
    assert code == 2 and "delete it, and it is fetched again" in err


def test_a_net_of_another_form_is_torchvisions_own(hub, image):
    torch.manual_seed(0)
    theirs = torchvision.models.squeezenet1_1()
    file = io.BytesIO()
    torch.save(theirs.state_dict(), file)
    digest = hub.put("/made", file.getvalue())
    name = f"squeezenet1_1-{digest[:8]}.pth"
    hub.put(f"/models/{name}", file.getvalue())
    weights = torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(weights.value), "url", f"{hub.url}/models/{name}")
        trained = load("torchvision:squeezenet1_1.IMAGENET1K_V1")
    assert type(trained.task.net) is type(theirs) and trained.classes[0] == "tench"


def test_named_weights_become_a_file_in_torchvisions_names(cli, hub, net):
    code, out, err = cli("convert", "timm:resnet18.a1_in1k", "--out", "net.pth")
    assert code == 0 and "torchvision.models.resnet18(num_classes=1000) loads it" in out, err
    theirs = torchvision.models.resnet18()
    theirs.load_state_dict(torch.load("net.pth"))
    assert torch.equal(theirs.fc.weight, net.fc.weight)
    code, _, err = cli("convert", "timm:resnet18.a1_in1k", "--out", "net.pth", "--mean", *"123")
    assert code == 2 and "tells its own: leave it out" in err


def make_photos():
    for kind in "abc":
        for i in range(6):
            pixels = np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)
            path = Path(f"photos/{kind}/{i}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    Path("finetune.yaml").write_text(RECIPE)


def test_a_training_begins_with_named_weights_and_records_them(cli, hub):
    make_photos()
    code, out, err = cli(*FINETUNE, "timm:resnet18.a1_in1k")
    assert code == 0, err
    assert "net.fc.weight is new: (3, 512), (1000, 512) in timm:resnet18.a1_in1k" in out
    run = only_run(Path("runs"))
    meta = json.loads((run / "meta.json").read_text())
    assert meta["init_from"]["name"] == "timm:resnet18.a1_in1k"
    assert meta["init_from"]["url"].endswith(TIMM) and len(meta["init_from"]["sha256"]) == 64
    asked = len(hub.asked)
    hub.files.clear()  # no network: the file is there
    code, out, err = cli(*FINETUNE, "timm:resnet18.a1_in1k", "--run.new")
    assert code == 0 and len(hub.asked) == asked, err


def test_the_recipe_for_trained_weights_names_them(cli, hub):
    make_photos()
    shutil.copy(REPOSITORY / "configs/finetune.yaml", "finetune.yaml")
    words = [*FINETUNE[:-1], "--data.source.root", "photos", "--model.net.num_classes", 3]
    code, _, err = cli(*words)
    assert code == 2 and "resnet50" in err and err.splitlines()[-1].startswith("error: "), err
    words += ["--model.net.depth", 18, "--run.init_from", "timm:resnet18.a1_in1k"]
    code, out, err = cli(*words)
    assert code == 0 and "net.fc.weight is new" in out, err


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_named_weights_are_validated_on_images_of_ones_own(cli, hub, verb):
    code, out, err = cli(verb, "timm:resnet18.a1_in1k")
    assert (code, out) == (2, "") and err.count("\n") == 1 and "damaged" not in err, err
    assert "--data.source" in err


def test_a_net_of_another_depth_is_refused_in_one_line(cli, hub):
    make_photos()
    code, _, err = cli(*FINETUNE, "timm:resnet18.a1_in1k", "--model.net.depth", "50")
    assert code == 2 and err.count("\n") == 1 and "--model.net.depth 18" in err
    assert not Path("runs").exists()


def test_an_id_counts_a_name_and_no_content():
    config = {"seed_everything": 0, "model": {}, "data": {}, "trainer": {}}
    ids = [
        run_id(config | {"run": {"init_from": name}})
        for name in ("timm:resnet18.a1_in1k", "timm:resnet18.a2_in1k", None)
    ]
    assert len(set(ids)) == 3


WRONG = {
    "timm:resnet18": "say which weights; there are timm:resnet18.a1_in1k, timm:resnet18.a2_in1k",
    "timm:resnet18.a1": "say which weights; there are timm:resnet18.a1_in1k",
    "timm:resnet1.a1_in1k": "did you mean resnet18?",
    "torchvision:resnet50": "are torchvision:resnet50.IMAGENET1K_V1, torchvision:resnet50.IM",
    "torchvision:resnet50.V2": "there are torchvision:resnet50.IMAGENET1K_V1",
    "torchvision:resnt50.IMAGENET1K_V2": "did you mean resnet50?",
    "timm:": "needs the name of a net and its weights",
    "torchvision:": "needs the name of a net and its weights",
    "hf:foo": "write hf:ORG/REPO",
    "hf:foo/bar": "has no model.safetensors or pytorch_model.bin: name the file, hf:foo/bar/FILE",
    "hf:foo/silent": "silent for 1 s",
    "hf:foo/cut/x.safetensors": "cut off 3 times",
    "hf:a b/c": "look at the spelling",
    "http://example.com/x.pth": "is not encrypted: add #sha256=",
    "https://example.com": "ends in the name of a file",
    "https://example.com/x.pth#sha256=12": "64 hexadecimal digits",
    "{hub}/none.pth": "(answers 404 Not Found): fetch it elsewhere, and put it to",
    "{hub}/silent.pth": "no answer within 1 s): fetch it elsewhere, and put it to",
    "{hub}/cut.pth": "bytes; given up after 3 tries): fetch it elsewhere, and put it to",
    "{hub}/page.pth": "was cut off, or holds no weights alone, and is not kept",
    "{hub}/code.pth": "was cut off, or holds no weights alone, and is not kept",
    "{hub}/good.pth#sha256=" + 64 * "0": "was cut off or changed on its way, and is not kept",
    "http://127.0.0.1:9/x.pth": "cannot be reached (Connection refused)): fetch it elsewhere",
}


class Code:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def test_what_is_wrong_is_said_in_one_line_with_a_cure(cli, hub, pth, image):
    code = io.BytesIO()
    torch.save({"a": Code()}, code)
    for path, content in (
        ("/good.pth", pth),
        ("/cut.pth", pth),
        ("/foo/cut/resolve/main/x.safetensors", pth),
        ("/page.pth", b"<html>moved</html>"),
        ("/code.pth", code.getvalue()),
    ):
        hub.put(path, content)
    hub.cut |= {"/cut.pth", "/foo/cut/resolve/main/x.safetensors"}
    hub.silent |= {"/silent.pth", "/foo/silent/resolve/main/model.safetensors"}
    for name, said in WRONG.items():
        status, _, err = cli("predict", image, "--ckpt_path", name.format(hub=hub.url))
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert status == 2 and len(lines) == 1 and said in lines[0], (name, err)
    left = sorted(Path(torch.hub.get_dir(), "checkpoints").glob("*.pth*"))
    assert {path.name.partition(".pth.")[2] for path in left} == {"part", "part.json"}
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (None, "has no state_dict"),
        ([torch.ones(2)], "has no state_dict"),
        ({"net.fc.weight": torch.eye(2).to_sparse()}, "fc.weight is a tensor of sparse_coo"),
    ],
)
def test_a_checkpoint_of_ours_from_a_hub_is_checked_as_one_from_a_file(hub, state, said):
    content = {"run": {"config": "{}"}, "state_dict": state}
    file = io.BytesIO()
    torch.save(content, file)
    hub.put("/ours.ckpt", file.getvalue())
    with pytest.raises(UserError, match=f"ours.ckpt.*{said}"):
        hubs.read_named(f"{hub.url}/ours.ckpt")


def test_weights_that_were_cut_off_continue(hub, pth):
    hub.put("/w.pth", pth)
    hub.cut.add("/w.pth")
    hub.ranges = True
    with pytest.raises(UserError, match="given up after 3 tries"):
        hubs.fetch(f"{hub.url}/w.pth")
    hub.cut.clear()
    hub.asked.clear()
    file, _ = hubs.fetch(f"{hub.url}/w.pth")
    assert file.path.read_bytes() == pth and hub.first_bytes[-1] > len(pth) // 2
    assert not list(file.path.parent.glob("*.part*"))


def test_without_a_hub_one_line_says_what_to_fetch_and_where_to_put_it(cli, hub, image):
    hub.shutdown()
    hub.server_close()
    code, _, err = cli("predict", image, "--ckpt_path", "timm:resnet18.a1_in1k")
    assert code == 2 and err.count("\n") == 1
    assert f"{hub.url}{TIMM} (Connection refused)" in err
    assert "`hf download timm/resnet18.a1_in1k model.safetensors`" in err
    assert str(Path(constants.HF_HUB_CACHE, "models--timm--resnet18.a1_in1k")) in err


def test_labels_and_preprocessing_come_from_the_repository(hub, net):
    config = {
        "num_classes": 1000,
        "label_names": [f"kind {i}" for i in range(1000)],
        "pretrained_cfg": {"input_size": [3, 160, 160], "crop_pct": 1.0, "mean": [0.5, 0.5, 0.5]},
    }
    hub.put("/me/net/resolve/main/x.safetensors", save(net.state_dict()))
    hub.put("/me/net/resolve/main/config.json", json.dumps(config).encode())
    trained = load("hf:me/net/x.safetensors")
    assert predicted(trained, None) == ([f"kind {i}" for i in range(1000)], 160, 1.0)
    assert trained.task.mean.flatten().tolist() == [127.5, 127.5, 127.5]


def test_normalisation_of_a_hub_that_is_silent_is_not_assumed(hub, net):
    hub.put("/me/net/resolve/main/x.safetensors", save(net.state_dict()))
    hub.silent.add("/me/net/resolve/main/config.json")
    with pytest.raises(UserError, match="config.json .silent for 1 s"):
        load("hf:me/net/x.safetensors")
    hub.silent.clear()
    assert load("hf:me/net/x.safetensors").class_names() == hubs.imagenet_words()
    hub.silent.add("/me/net/resolve/main/config.json")  # it is known that there is none
    assert load("hf:me/net/x.safetensors").class_names() == hubs.imagenet_words()


@pytest.mark.parametrize(
    "told", [{"mean": [0.5]}, {"std": [0, 0, 0]}, {"std": "0.5,0.5,0.5"}, {"mean": [None, 1, 1]}]
)
def test_normalisation_of_a_hub_is_three_numbers(hub, net, told):
    hub.put("/me/net/resolve/main/x.safetensors", save(net.state_dict()))
    hub.put("/me/net/resolve/main/config.json", json.dumps(told).encode())
    with pytest.raises(UserError, match="its config.json is not like timm's: (mean|std) "):
        load("hf:me/net/x.safetensors")


def test_names_of_too_few_classes_are_left_out(hub, net, capsys):
    hub.put("/me/net/resolve/main/x.safetensors", save(net.state_dict()))
    config = json.dumps({"label_names": ["a", "b", "c"]})
    hub.put("/me/net/resolve/main/config.json", config.encode())
    assert "a" not in load("hf:me/net/x.safetensors").class_names()[:1]
    assert "names 3 classes, and the net has 1,000 outputs" in capsys.readouterr().err


def test_a_date_in_a_name_is_no_hash(hub, pth):
    hub.put("/resnet18-20240115.pth", pth)
    file, _ = hubs.fetch(f"{hub.url}/resnet18-20240115.pth")
    assert file.path.read_bytes() == pth
    hub.put("/resnet18-20240a15.pth", pth)
    with pytest.raises(UserError, match="not 20240a15.: try again, or .* as #sha256=..."):
        hubs.fetch(f"{hub.url}/resnet18-20240a15.pth")
    hubs.fetch(f"{hub.url}/resnet18-20240a15.pth#sha256={file.sha256}")
