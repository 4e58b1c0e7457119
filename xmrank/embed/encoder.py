"""One interface to open_clip's encoders and our own `xmrank-tiny`: images or captions to unit vectors."""

import contextlib
import difflib
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, cast

import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from xmrank.embed.decoding import PixelTransform
from xmrank.runtime.errors import ConfigError
from xmrank.runtime.paths import resolve

BUNDLED = Path(__file__).parent / "bundled"
TINY = "xmrank-tiny"
PRECISIONS = ("fp32", "bf16", "fp16")
CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Encoder:
    """A loaded model, its transform and its tokenizer.

    Attributes:
        name: open_clip's name of the model.
        model: in evaluation mode, on `device`.
        preprocess: one RGB image → float32 [3, H, W], open_clip's transform for evaluation.
        tokenizer: captions → int64 [captions, context length].
        dimensions: length d of an embedding.
        weights_hash: sha256 over the names, shapes, types and bytes of the weights.
        preprocessing: the settings of preprocess and tokenizer, JSON-able.
    """

    name: str
    model: open_clip.CLIP  # or another of open_clip's classes with encode_image and encode_text
    preprocess: Callable[[Image.Image], Tensor]
    tokenizer: Callable[[list[str]], Tensor]
    dimensions: int
    weights_hash: str
    preprocessing: dict[str, Any]
    device: torch.device
    input_dtype: torch.dtype

    @cached_property
    def pixels(self) -> PixelTransform:
        """The transform in two parts, which together do what `preprocess` does."""
        return PixelTransform.split_transform(self.preprocess)

    def compile_model(self) -> "Encoder":
        """The same encoder, with torch.compile around both sides of its model."""
        for name in ("encode_image", "encode_text", "forward_intermediates"):
            setattr(self.model, name, torch.compile(getattr(self.model, name)))
        return self

    def finish_pixels(self, images: Tensor) -> Tensor:
        """The model's input from images [B, 3, H, W], preprocessed or as ``pixels`` prepares them."""
        # What readers prepared is uint8; a user's own tensor has been normalised already.
        return self.pixels.finish(images.to(self.device)).to(self.input_dtype)

    @torch.inference_mode()
    def encode_images(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], preprocessed or as ``pixels`` prepares them → float32 [B, d] of unit length, on the
        encoder's device."""
        return F.normalize(self.model.encode_image(self.finish_pixels(images)).float(), dim=-1)

    def encode_texts(self, texts: list[str]) -> Tensor:
        """B captions → float32 [B, d] of unit length, on the encoder's device; long ones are truncated."""
        return self.encode_tokens(self.tokenizer(texts))

    @torch.inference_mode()
    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """The tokenizer's output for B captions → as `encode_texts`."""
        return F.normalize(self.model.encode_text(tokens.to(self.device)).float(), dim=-1)


def load_encoder(
    model: str,
    pretrained: str | None = None,
    *,
    init_seed: int | None = None,
    precision: str = "fp32",
    device: str | torch.device = "cpu",
) -> Encoder:
    """Load any open_clip model, or `xmrank-tiny`.

    Args:
        model: a name that open_clip knows, or xmrank-tiny.
        pretrained: a tag that open_clip knows for the model (downloaded, or from its cache); the path of a local
            checkpoint, .safetensors or a .pt that holds weights only; "none" for an untrained model; "bundled", the
            default of xmrank-tiny and only there.
        init_seed: seed of an untrained model's weights; needed for "none", refused otherwise.
        precision: fp32, bf16 or fp16.
        device: of the model.

    Raises:
        ConfigError: an unknown model, tag, file or precision, a checkpoint of another model or with code in it, or a
            download that failed; names the flag.
    """
    register_bundled()
    _check_model(model, precision)
    weights = _find_weights(model, pretrained, init_seed)
    # A seed of its own for the weights, without a change to the caller's random numbers.
    with _quiet_open_clip(), torch.random.fork_rng(enabled=init_seed is not None):
        if init_seed is not None:
            torch.manual_seed(init_seed)
        loaded, preprocess = _create_model(model, weights, precision, device)
        tokenizer = tokenizer_of(model)
    return Encoder(
        name=model,
        model=loaded,
        preprocess=preprocess,
        tokenizer=tokenizer,
        dimensions=open_clip.get_model_config(model)["embed_dim"],
        weights_hash=hash_weights(loaded),
        preprocessing=_describe_preprocessing(loaded, tokenizer),
        device=torch.device(device),
        input_dtype=open_clip.get_input_dtype(precision) or torch.float32,
    )


@cache
def register_bundled() -> None:
    """Register our model configurations with open_clip; from then on they are models like any other."""
    open_clip.add_model_config(BUNDLED)


def tokenizer_of(model: str) -> Callable[[list[str]], Tensor]:
    """The tokenizer of a model that is known to exist."""
    register_bundled()
    return cast(Callable[[list[str]], Tensor], open_clip.get_tokenizer(model))


def hash_weights(model: nn.Module) -> str:
    """sha256 over the names, shapes, types and bytes of a model's state, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        # With names and shapes: equal bytes in another order are other weights.
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _check_model(model: str, precision: str) -> None:
    if precision not in PRECISIONS:
        raise ConfigError(f"--precision {precision}: expected one of {', '.join(PRECISIONS)}")
    # Checked before loading: open_clip would log a whole list and return None.
    known = open_clip.list_models()
    if model not in known:
        close = difflib.get_close_matches(model, known, n=5, cutoff=0.5) or [TINY, "ViT-B-32", "RN50"]
        raise ConfigError(f"--model {model}: open_clip has no such model; close to it: {', '.join(close)}")


def _find_weights(model: str, pretrained: str | None, init_seed: int | None) -> str | None:
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
    if pretrained is not None and open_clip.get_pretrained_cfg(model, pretrained):
        return pretrained
    path = resolve(pretrained) if pretrained else None
    if path is None or not path.is_file():
        given = f"--pretrained {pretrained}: no such tag or file; expected" if pretrained else "--pretrained: expected"
        raise ConfigError(f"{given} {_list_weights(model)}")
    _refuse_code(path)
    return str(path)


def _list_weights(model: str) -> str:
    """What `--pretrained` may be for a model."""
    tags = open_clip.list_pretrained_tags_by_model(model) + (["bundled"] if model == TINY else [])
    known = f"a tag of {model} ({', '.join(tags)}), " if tags else ""
    return f"{known}the path of a checkpoint, or none with --init-seed"


def _refuse_code(path: Path) -> None:
    """Raise unless a checkpoint's file can be read as weights only.

    open_clip reads with weights_only=True, but after a TypeError again without it. A file that passes this check does
    not raise that error.
    """
    if path.suffix not in CHECKPOINT_SUFFIXES:
        raise ConfigError(f"--pretrained {path}: expected a file that ends in {', '.join(CHECKPOINT_SUFFIXES)}")
    # This format cannot hold code.
    if path.suffix == ".safetensors":
        return
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch names the class that the file would have created.
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it holds {foreign[1]}" if foreign else _first_line(error)
        raise ConfigError(f"--pretrained {path}: expected weights only, anything else may run code: {reason}") from None


def _create_model(
    model: str, weights: str | None, precision: str, device: str | torch.device
) -> tuple[nn.Module, Callable[[Image.Image], Tensor]]:
    try:
        # The transform for training is not used.
        created, _, preprocess = open_clip.create_model_and_transforms(
            model,
            pretrained=weights,
            precision=precision,
            device=device,
            pretrained_text=False,  # its default fetches a language model's weights, even for an untrained model
            require_pretrained=weights is not None,
        )
    except Exception as error:
        raise ConfigError(_explain_failure(model, weights, error)) from error
    return created.eval(), preprocess


def _explain_failure(model: str, weights: str | None, error: Exception) -> str:
    """Why a model could not be created, in one line."""
    if weights is None:
        return f"--model {model}: could not be created: {_first_line(error)}"
    # A tag is downloaded, a checkpoint is read: they fail for different reasons.
    tag = open_clip.get_pretrained_cfg(model, weights)
    if not tag:
        return f"--pretrained {weights}: does not fit {model}: {_first_line(error)}"
    source = tag.get("hf_hub") or tag.get("url")
    return (
        f"--pretrained {weights}: the weights could not be downloaded from {source}: {_first_line(error)}; "
        "without a network, give the path of a checkpoint"
    )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:240] or type(error).__name__


def _describe_preprocessing(model: nn.Module, tokenizer: object) -> dict[str, Any]:
    # Through JSON, so that it equals what is read back from a store.
    described = {
        "image": open_clip.get_model_preprocess_cfg(model),
        "tokenizer": type(tokenizer).__name__,
        "context_length": getattr(tokenizer, "context_length", None),
    }
    return dict(json.loads(json.dumps(described)))


@contextlib.contextmanager
def _quiet_open_clip() -> Iterator[None]:
    """Silence open_clip, which logs to the root logger what our own messages say."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
