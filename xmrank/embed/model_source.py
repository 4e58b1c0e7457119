"""Which model `--model` means: one of open_clip's names, a configuration file, a folder, or a name on the hub.

open_clip takes three seconds to import, so functions that need it do so: a model's name is known without it.
"""

import contextlib
import difflib
import logging
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from xmrank.runtime.errors import ConfigError
from xmrank.runtime.files import read_json_file, sha256_file, sha256_json
from xmrank.runtime.paths import as_path, resolve
from xmrank.runtime.storage import local_copy, local_tree

BUNDLED = Path(__file__).parent / "bundled"
TINY = "xmrank-tiny"
HUB, FOLDER, CONFIG_SUFFIX = "hf-hub:", "local-dir:", ".json"
"""What a model begins or ends with that is not one of open_clip's names; the first two are open_clip's own."""
CONFIG_FILE = "open_clip_config.json"
CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
PRECISIONS = ("fp32", "bf16", "fp16")
TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "*.model")
"""Files of a tokenizer in a model's folder."""
FILES = "open_clip_files"
"""The name under which single modules of open_clip are imported."""
REGISTERED: dict[str, Path] = {}
"""Name → file of the configurations that this process has registered."""
PARTS = ("embed_dim", "vision_cfg", "text_cfg")
"""What a model's configuration must have."""


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        name: what stores and reports call it; without a folder's path.
        identifier: open_clip's name of it.
        weights: those that come with it; None where `--pretrained` says.
        architecture: sha256 of its configuration and tokenizer where they come from files; None for open_clip's own.
    """

    name: str
    identifier: str
    weights: Path | None = None
    architecture: str | None = None


def standard_model(model: str) -> str:
    """`--model` as open_clip writes it: ViT-B-32 for ViT-B/32 or openai/clip-vit-base-patch32; paths are absolute.

    Raises:
        ConfigError: open_clip has no such model, or there is no such file or folder.
    """
    if model.startswith(HUB):
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", model.removeprefix(HUB)):
            raise ConfigError(f"--model {model}: expected {HUB}ORG/NAME")
        return model
    if model.startswith(FOLDER):
        folder = resolve(model.removeprefix(FOLDER) or ".")
        if not folder.is_dir():
            raise ConfigError(f"--model {model}: no such folder: {folder}")
        return f"{FOLDER}{folder}"
    if model.endswith(CONFIG_SUFFIX):
        return str(resolve(model))
    if model == TINY:
        return model
    known = list_models()
    if model in known:
        return model
    same = [name for name in known if simplify_name(name) == simplify_name(model)]
    if len(same) != 1:
        raise ConfigError(f"--model {model}: open_clip has no such model; {suggest_models(model, known)}")
    return same[0]


def simplify_name(name: str) -> str:
    """A model's name without what people write differently: capitals, separators, clip in front, px at the end."""
    name = name.lower().replace("@", "-").removesuffix("px")
    name = re.sub(r"^(openai/)?(open[-_ ]?)?(clip[-_ /])?", "", name)
    name = re.sub(r"[/_ ]+", "-", name)
    # As the hub of transformers has them: vit-base-patch32.
    return re.sub(r"vit-([blhg])[a-z]*-patch-?(\d+)", r"vit-\1-\2", name)


def suggest_models(model: str, known: list[str]) -> str:
    """What may have been meant by an unknown name."""
    with contextlib.suppress(ConfigError):  # a name that is no path here
        if model and resolve(model).is_dir():
            return f"a folder is {FOLDER}{model}"
    close = difflib.get_close_matches(model, known, n=5, cutoff=0.5) or [TINY, "ViT-B-32", "RN50"]
    hub = f"; a model on Hugging Face's hub is {HUB}{model}" if re.fullmatch(r"[\w.-]+/[\w.-]+", model) else ""
    return f"close to it: {', '.join(close)}{hub}"


def find_model(model: str) -> ModelSource:
    """Where a model comes from; one on the hub is downloaded, unless it is in the hub's cache.

    Raises:
        ConfigError: an unknown name, a file or folder without a model, weights with code in them, or a download that
            failed.
    """
    model = standard_model(model)
    if model.startswith(FOLDER):
        return find_in_folder(local_tree(as_path(model.removeprefix(FOLDER))))
    if model.startswith(HUB):
        return find_on_hub(model)
    if model.endswith(CONFIG_SUFFIX):
        file = local_tree(as_path(model))
        return register_config(file, hash_config(file))
    return ModelSource(model, model)


@cache
def register_bundled() -> None:
    """Register our model configurations with open_clip; from then on they are models like any other."""
    import open_clip

    open_clip.add_model_config(BUNDLED)


def list_models() -> list[str]:
    """The names of open_clip's models and ours, those of their configurations; open_clip is not imported for it."""
    # Where it is imported, a program may have added models.
    if "open_clip" in sys.modules:
        import open_clip

        register_bundled()
        return list(open_clip.list_models())
    folders = (find_open_clip() / "model_configs", BUNDLED)
    return sorted(file.stem for folder in folders for file in folder.glob(f"*{CONFIG_SUFFIX}"))


def find_open_clip() -> Path:
    """The folder of open_clip's files."""
    package = find_spec("open_clip")
    assert package is not None and package.origin is not None
    return Path(package.origin).parent


def load_weights_table() -> ModuleType:
    """open_clip's module that lists pretrained weights, alone where the rest is not imported yet."""
    if "open_clip" in sys.modules:
        return import_module("open_clip.pretrained")
    # A package of the same files under another name, whose beginning imports nothing.
    package = ModuleType(FILES)
    package.__path__ = [str(find_open_clip())]
    sys.modules[FILES] = package
    return import_module(f"{FILES}.pretrained")


def find_in_folder(folder: Path) -> ModelSource:
    """The model in a folder as open_clip and its fine-tunes are saved: open_clip_config.json and the weights."""
    flag = f"--model {FOLDER}{folder}"
    if not (folder / CONFIG_FILE).is_file():
        raise ConfigError(f"{flag}: no {CONFIG_FILE} in it")
    content = read_config(folder / CONFIG_FILE, flag)
    check_config(content.get("model_cfg"), f"{flag}: {CONFIG_FILE}: model_cfg")
    from open_clip.factory import _find_checkpoint_in_dir as find_checkpoint

    weights = find_checkpoint(folder)
    if weights is None:
        raise ConfigError(f"{flag}: no weights in it; expected open_clip_model.safetensors")
    refuse_code(Path(weights), flag)
    # A tokenizer of its own lies beside it.
    files = sorted({path for pattern in TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file()})
    parts = [content, [[path.name, sha256_file(path)] for path in files]]
    return ModelSource(f"{FOLDER}{folder.name}", f"{FOLDER}{folder}", Path(weights), sha256_json(parts))


@cache
def find_on_hub(model: str) -> ModelSource:
    """The model of a name on Hugging Face's hub."""
    from open_clip.pretrained import download_pretrained_from_hf

    name = model.removeprefix(HUB)
    try:
        with quiet_open_clip():
            config = Path(download_pretrained_from_hf(name, filename=CONFIG_FILE))
            weights = Path(download_pretrained_from_hf(name))
    except Exception as error:  # each layer of the client raises its own
        raise ConfigError(
            f"--model {model}: could not be downloaded: {first_line(error)}; without a network, give the model's "
            f"folder: {FOLDER}PATH"
        ) from None
    content = read_config(config, f"--model {model}")
    check_config(content.get("model_cfg"), f"--model {model}: {CONFIG_FILE}: model_cfg")
    refuse_code(weights, f"--model {model}")
    return ModelSource(model, model, weights, sha256_json(content))


def hash_config(path: Path) -> str:
    """The hash of a model's configuration file, after checking it."""
    flag = f"--model {path}"
    if path.name == CONFIG_FILE:
        raise ConfigError(f"{flag}: expected its folder: {FOLDER}{path.parent}")
    content = read_config(path, flag)
    check_config(content, flag)
    return sha256_json(content)


def register_config(path: Path, architecture: str) -> ModelSource:
    """The model of a configuration file, registered with open_clip under the file's name.

    Raises:
        ConfigError: open_clip has another model of that name.
    """
    import open_clip

    if path.stem in list_models() and REGISTERED.get(path.stem) != path:
        raise ConfigError(f"--model {path}: open_clip has a model {path.stem} already; give the file another name")
    # Also when it is there already: the file may have changed.
    open_clip.add_model_config(path)
    REGISTERED[path.stem] = path
    return ModelSource(path.stem, path.stem, None, architecture)


def read_config(path: Path, flag: str) -> dict[str, Any]:
    """The JSON object in a model's configuration file.

    Raises:
        DataError: no such file, or not JSON.
        ConfigError: another value.
    """
    content = read_json_file(path, "--model")
    if not isinstance(content, dict):
        raise ConfigError(f"{flag}: {path.name} holds no object")
    return content


def check_config(config: Any, where: str) -> None:
    """Raise ConfigError unless a model's configuration has its parts and lets no code of others run."""
    missing = [part for part in PARTS if not isinstance(config, dict) or part not in config]
    if missing:
        raise ConfigError(f"{where}: no {', '.join(missing)}; expected a model's configuration as open_clip has them")
    if not all(isinstance(config[part], dict) for part in PARTS[1:]):
        raise ConfigError(f"{where}: {' and '.join(PARTS[1:])}: expected objects")
    # transformers would run Python files of the model.
    if "trust_remote_code" in str(config):
        raise ConfigError(f"{where}: trust_remote_code: a model that brings code is not loaded")


def refuse_code(path: Path, flag: str) -> None:
    """Raise unless a checkpoint's file can be read as weights only.

    open_clip reads with weights_only=True, but after a TypeError again without it. A file that passes this check does
    not raise that error.
    """
    where = flag if str(path) in flag else f"{flag}: {path.name}"
    if path.suffix not in CHECKPOINT_SUFFIXES:
        raise ConfigError(f"{where}: expected a file that ends in {', '.join(CHECKPOINT_SUFFIXES)}")
    # This format cannot hold code.
    if path.suffix == ".safetensors":
        return
    stat = path.stat()
    if reason := find_code(path, (stat.st_size, stat.st_mtime_ns)):
        raise ConfigError(f"{where}: expected weights only, anything else may run code: {reason}")


@cache
def find_code(path: Path, version: tuple[int, int]) -> str:  # noqa: ARG001
    """Why a checkpoint cannot be read as weights only; empty where it can. It is read once a ``version``."""
    import torch

    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch names the class that the file would have created.
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        return f"it holds {foreign[1]}" if foreign else first_line(error)
    return ""


def first_line(error: Exception) -> str:
    """The beginning of an error's message, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:240] or type(error).__name__


@contextlib.contextmanager
def quiet_open_clip() -> Iterator[None]:
    """Silence open_clip and the hub's client, which log what our own messages say."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def check_model(
    model: str, pretrained: str | None, *, init_seed: int | None, precision: str = "fp32"
) -> tuple[ModelSource, str | None]:
    """Where a model and its weights come from, without loading them; arguments and errors as of `load_encoder`.

    Returns:
        the source, and the weights: a tag, the path of a checkpoint without code, or None for an untrained model.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"--precision {precision}: expected one of {', '.join(PRECISIONS)}")
    source = find_model(model)
    if source.weights is None:
        return source, find_weights(source.identifier, pretrained, init_seed)
    if pretrained is not None:
        raise ConfigError(f"--pretrained {pretrained}: {source.name} comes with its weights; leave it out")
    if init_seed is not None:
        raise ConfigError(f"--init-seed {init_seed}: {source.name} comes with its weights; leave it out")
    return source, str(source.weights)


def find_weights(model: str, pretrained: str | None, init_seed: int | None) -> str | None:
    """What open_clip has to load: a tag, the path of a checkpoint without code, or None for an untrained model."""
    if pretrained is None and model == TINY:
        pretrained = "bundled"
    # Random weights must be chosen on purpose, and be repeatable.
    if pretrained == "none":
        if init_seed is None:
            raise ConfigError("--pretrained none: an untrained model needs --init-seed")
        return None
    if init_seed is not None:
        raise ConfigError(f"--init-seed {init_seed}: only an untrained model takes it, with --pretrained none")
    if pretrained == "bundled" and model == TINY:
        return str(BUNDLED / f"{TINY}.safetensors")
    # Tags go before files: a file named like a tag would be ambiguous.
    if pretrained is not None and load_weights_table().get_pretrained_cfg(model, pretrained):
        return pretrained
    path = resolve(pretrained) if pretrained else None
    if path is None or not path.is_file():
        given = f"--pretrained {pretrained}: no such tag or file; expected" if pretrained else "--pretrained: expected"
        raise ConfigError(f"{given} {list_weights(model)}")
    file = local_copy(path)
    refuse_code(file, f"--pretrained {path}")
    return str(file)


def list_weights(model: str) -> str:
    """What `--pretrained` may be for a model."""
    tags = load_weights_table().list_pretrained_tags_by_model(model) + (["bundled"] if model == TINY else [])
    known = f"a tag of {model} ({', '.join(tags)}), " if tags else ""
    return f"{known}the path of a checkpoint, or none with --init-seed"


def needs_quick_gelu(model: str, pretrained: str | None) -> bool:
    """Whether the weights of a tag were trained with QuickGELU: with another activation, open_clip only warns."""
    if model == TINY or not pretrained:
        return False
    return bool((load_weights_table().get_pretrained_cfg(model, pretrained) or {}).get("quick_gelu"))
