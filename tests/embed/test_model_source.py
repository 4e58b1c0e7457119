"""Models of every form: open_clip's names as people write them, folders, configuration files, the hub."""

import json
import shutil
import subprocess
import sys

import open_clip
import pytest
import torch
from embedding_samples import configured
from PIL import Image
from safetensors.torch import save_file

from xmrank.config import EmbedConfig
from xmrank.embed import stage
from xmrank.embed.encoder import load_encoder
from xmrank.embed.model_source import find_model, find_on_hub, needs_quick_gelu, simplify_name, standard_model
from xmrank.embed.stage import embed
from xmrank.embed.store import EmbeddingStore
from xmrank.runtime.errors import ConfigError, DataError
from xmrank.runtime.manifest import read_manifest

SMALL = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PIXELS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear"}
WEIGHTS = "open_clip_model.safetensors"


def make_state(seed=0):
    """The weights of an untrained model of ``SMALL``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return open_clip.CLIP(**SMALL).state_dict()


@pytest.fixture
def model(tmp_path):
    """A model's folder as open_clip's own training and its fine-tunes are saved."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": SMALL, "preprocess_cfg": PIXELS}))
    save_file(make_state(), folder / WEIGHTS)
    return folder


def refusal(function, *arguments, error=ConfigError, **settings):
    with pytest.raises(error) as caught:
        function(*arguments, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("ViT-B-32", "ViT-B-32"),
        ("ViT-B/32", "ViT-B-32"),
        ("vit_b_32", "ViT-B-32"),
        ("CLIP ViT-B/16", "ViT-B-16"),
        ("clip-ViT-L-14", "ViT-L-14"),
        ("ViT-L/14@336px", "ViT-L-14-336"),
        ("openai/clip-vit-base-patch32", "ViT-B-32"),
        ("openai/clip-vit-large-patch14-336", "ViT-L-14-336"),
        ("rn50x4", "RN50x4"),
        ("vit-b-16-siglip2", "ViT-B-16-SigLIP2"),
        ("MobileCLIP_s1", "MobileCLIP-S1"),
        ("XMRank-Tiny", "xmrank-tiny"),
    ],
)
def test_names_as_people_write_them(written, name):
    assert standard_model(written) == name


def test_models_and_tags_are_known_without_importing_open_clip():
    code = (
        "import json, sys\n"
        "from xmrank.embed.model_source import list_models, load_weights_table\n"
        "early = [list_models(), load_weights_table().list_pretrained_tags_by_model('ViT-B-32')]\n"
        "early.append('open_clip' in sys.modules)\n"
        "import open_clip\n"
        "late = [sorted(list_models()), open_clip.list_pretrained_tags_by_model('ViT-B-32'), False]\n"
        "print(json.dumps([early, late]))"
    )
    early, late = json.loads(subprocess.check_output([sys.executable, "-c", code]))
    assert early == late


def test_no_two_models_differ_only_in_how_they_are_written():
    names = open_clip.list_models()
    assert len({simplify_name(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("ViT-B/33", "--model ViT-B/33: open_clip has no such model; close to it: ViT-B-32"),
        (
            "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
            "a model on Hugging Face's hub is hf-hub:laion/CLIP-ViT-B-32-laion2B",
        ),
        ("hf-hub:nobody", "--model hf-hub:nobody: expected hf-hub:ORG/NAME"),
        ("hf-hub:", "--model hf-hub:: expected hf-hub:ORG/NAME"),
        ("local-dir:nowhere", "--model local-dir:nowhere: no such folder: "),
        ("mine", "--model mine: open_clip has no such model; a folder is local-dir:mine"),
    ],
)
def test_an_unknown_model_is_one_line(model, message, tmp_path, monkeypatch):
    monkeypatch.setenv("XMRANK_HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    assert message in refusal(load_encoder, model)


def test_an_unknown_name_in_a_submitted_job_is_no_relative_path(tmp_path, monkeypatch):
    copy = tmp_path / "working_dir_files" / "pkg"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.delenv("XMRANK_HOME", raising=False)
    assert "open_clip has no such model; close to it: ViT-B-32" in refusal(load_encoder, "ViT-B-99")


def test_a_folder_is_loaded_as_open_clip_loads_it(model):
    encoder = load_encoder(f"local-dir:{model}")
    created, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{model}")
    image = Image.linear_gradient("L").convert("RGB")
    assert torch.equal(encoder.preprocess(image), preprocess(image))
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(created.eval().encode_image(preprocess(image)[None]), dim=-1)
    assert torch.equal(encoder.encode_images(encoder.pixels.prepare(image)[None]), expected)
    assert (encoder.name, encoder.dimensions) == ("local-dir:mine", 24)
    assert encoder.preprocessing["image"]["mean"] == PIXELS["mean"]


def test_a_relative_folder_starts_at_home(model, monkeypatch):
    monkeypatch.setenv("XMRANK_HOME", str(model.parent))
    assert standard_model("local-dir:mine") == f"local-dir:{model}"


def test_a_folder_counts_by_its_content(model):
    first = find_model(f"local-dir:{model}")
    moved = find_model(f"local-dir:{shutil.copytree(model, model.parent / 'moved')}")
    assert (first.name, moved.name) == ("local-dir:mine", "local-dir:moved")
    assert first.architecture == moved.architecture
    # Another tokenizer gives other embeddings with the same weights.
    (model.parent / "moved" / "tokenizer.json").write_text("{}")
    assert find_model(f"local-dir:{model.parent / 'moved'}").architecture != first.architecture


class Trap:
    """Pickles into a call that leaves a file behind when it is run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


def damage_config(model, change):
    content = json.loads((model / "open_clip_config.json").read_text())
    (model / "open_clip_config.json").write_text(json.dumps(change(content)))


def with_text(content, **changes):
    return content | {"model_cfg": {**SMALL, "text_cfg": {**SMALL["text_cfg"], **changes}}}


def replace_weights(model, write):
    (model / WEIGHTS).unlink()
    write()


BAD_FOLDERS = {
    "no configuration": (lambda m: (m / "open_clip_config.json").unlink(), "no open_clip_config.json in it"),
    "no weights": (lambda m: (m / WEIGHTS).unlink(), "no weights in it; expected open_clip_model.safetensors"),
    "no parts": (lambda m: damage_config(m, lambda c: {"model_cfg": {"embed_dim": 8}}), "no vision_cfg, text_cfg"),
    "no object": (lambda m: damage_config(m, lambda c: [c]), "open_clip_config.json holds no object"),
    "code": (
        lambda m: damage_config(m, lambda c: with_text(c, tokenizer_kwargs={"trust_remote_code": True})),
        "trust_remote_code: a model that brings code is not loaded",
    ),
    "other weights": (lambda m: damage_config(m, lambda c: with_text(c, width=32)), "could not be created: "),
    "code in weights": (
        lambda m: replace_weights(m, lambda: torch.save({"w": Trap(m / "sprung")}, m / "pytorch_model.bin")),
        "pytorch_model.bin: expected weights only, anything else may run code",
    ),
    "a tokenizer without its package": (
        lambda m: damage_config(m, lambda c: with_text(c, hf_tokenizer_name="timm/ViT-B-16-SigLIP2")),
        "its tokenizer ",
    ),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_a_folder_without_a_model_is_one_line(model, case):
    damage, message = BAD_FOLDERS[case]
    damage(model)
    text = refusal(load_encoder, f"local-dir:{model}")
    assert text.startswith(f"--model local-dir:{model}: ") and message in text
    assert not (model / "sprung").exists()


@pytest.mark.parametrize("settings", [{"pretrained": "openai"}, {"pretrained": "none"}, {"init_seed": 3}])
def test_a_folder_comes_with_its_weights(model, settings):
    assert "local-dir:mine comes with its weights; leave it out" in refusal(
        load_encoder, f"local-dir:{model}", **settings
    )


def test_a_configuration_of_ones_own(tmp_path):
    path = tmp_path / "xmrank-test-own.json"
    path.write_text(json.dumps(SMALL))
    save_file(make_state(), tmp_path / "w.safetensors")
    encoder = load_encoder(str(path), str(tmp_path / "w.safetensors"))
    assert (encoder.name, encoder.dimensions) == ("xmrank-test-own", 24)
    # A file that has changed is another model.
    path.write_text(json.dumps({**SMALL, "embed_dim": 8}))
    again = load_encoder(str(path), "none", init_seed=0)
    assert again.dimensions == 8 and again.architecture != encoder.architecture


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("ViT-B-32.json", SMALL, ConfigError, "open_clip has a model ViT-B-32 already; give the file another name"),
        ("open_clip_config.json", {"model_cfg": SMALL}, ConfigError, "expected its folder: local-dir:"),
        ("a.json", {"model_cfg": SMALL}, ConfigError, "a.json: no embed_dim, vision_cfg, text_cfg; expected a model's"),
        ("a.json", {**SMALL, "text_cfg": 3}, ConfigError, "a.json: vision_cfg and text_cfg: expected objects"),
        ("a.json", None, DataError, "a.json: no such file (--model)"),
    ],
)
def test_a_file_without_a_configuration_is_one_line(tmp_path, name, content, error, message):
    if content is not None:
        (tmp_path / name).write_text(json.dumps(content))
    assert message in refusal(load_encoder, str(tmp_path / name), "none", init_seed=0, error=error)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of the hub, without a network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    find_on_hub.cache_clear()
    yield tmp_path / "hub"
    find_on_hub.cache_clear()


def test_a_model_on_the_hub_is_that_of_its_folder(model, hub):
    snapshot = hub / "models--us--mine" / "snapshots" / ("0" * 40)
    shutil.copytree(model, snapshot)
    (hub / "models--us--mine" / "refs").mkdir()
    (hub / "models--us--mine" / "refs" / "main").write_text("0" * 40)
    encoder = load_encoder("hf-hub:us/mine")
    assert (encoder.name, encoder.weights_hash) == ("hf-hub:us/mine", load_encoder(f"local-dir:{model}").weights_hash)
    settings = stage.encoder_settings(EmbedConfig(model="hf-hub:us/mine"))
    assert settings["model"] == "hf-hub:us/mine" and settings["pretrained"].startswith("sha256:")


@pytest.mark.usefixtures("hub")
def test_a_model_that_cannot_be_downloaded_names_the_way_without_a_network():
    text = refusal(load_encoder, "hf-hub:us/mine")
    assert text.startswith("--model hf-hub:us/mine: could not be downloaded: ")
    assert text.endswith("without a network, give the model's folder: local-dir:PATH")


@pytest.mark.parametrize("quick", [True, False])
def test_a_tags_activation_is_that_of_its_weights(tmp_path, monkeypatch, quick):
    path = tmp_path / f"xmrank-test-activation-{quick}.json"
    path.write_text(json.dumps(SMALL))
    save_file(make_state(), tmp_path / "w.safetensors")
    find_model(str(path))
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, path.stem, {"ours": {"url": "x", "quick_gelu": quick}})
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: str(tmp_path / "w.safetensors"))
    encoder = load_encoder(path.stem, "ours")
    kinds = {type(module).__name__ for module in encoder.model.modules()}
    assert ("QuickGELU" in kinds, "GELU" in kinds) == (quick, not quick)
    assert encoder.preprocessing.get("quick_gelu", False) == quick


def test_openais_weights_have_their_activation_under_the_plain_name():
    assert needs_quick_gelu("ViT-B-32", "openai") and not needs_quick_gelu("ViT-B-32", "laion2b_s34b_b79k")
    assert stage.encoder_settings(EmbedConfig(model="ViT-B-32", pretrained="openai"))["quick_gelu"] is True


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "ViT-B-99"}, "--model ViT-B-99: open_clip has no such model"),
        ({"model": "local-dir:nowhere"}, "no such folder"),
        ({"model": "ViT-B-32", "pretrained": "nothing"}, "--pretrained nothing: no such tag or file"),
        ({"model": "RN50", "pretrained": "w.safetensors"}, "w.safetensors: does not fit RN50"),
    ],
)
def test_a_wrong_model_is_known_before_the_data_is_read(folder, monkeypatch, settings, message):
    monkeypatch.setenv("XMRANK_HOME", str(folder))
    monkeypatch.setattr(stage, "read_dataset", lambda *_: pytest.fail("the data was read first"))
    save_file(make_state(), folder / "w.safetensors")
    assert message in refusal(embed, configured(folder, **{"pretrained": None, "init_seed": None, **settings}))


@pytest.mark.usefixtures("encoded")
def test_a_store_of_a_folders_model_stays_finished_when_the_folder_moves(folder, model, capsys):
    config = configured(folder, model=f"local-dir:{model}", pretrained=None, init_seed=None)
    first = embed(config)
    store = EmbeddingStore.open(folder / "store")
    assert (store.encoder["name"], store.encoder["dimensions"]) == ("local-dir:mine", 24)
    moved = model.rename(model.parent / "moved")
    again = configured(folder, model=f"local-dir:{moved}", pretrained=None, init_seed=None)
    assert embed(again) == first == read_manifest(folder / "store", "embed")
    save_file(make_state(seed=1), moved / WEIGHTS)
    assert "pretrained is " in refusal(embed, again, error=DataError)
    assert " is open_clip's " not in capsys.readouterr().out


@pytest.mark.usefixtures("encoded")
def test_a_name_as_people_write_it_is_noted_and_gives_the_same_store(folder, capsys):
    first = embed(configured(folder, model="XMRANK/tiny"))
    assert "embed: --model XMRANK/tiny is open_clip's xmrank-tiny\n" in capsys.readouterr().out
    assert embed(configured(folder)) == first
