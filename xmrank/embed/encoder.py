"""One interface to open_clip's encoders and our own `xmrank-tiny`: images or captions to unit vectors."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from xmrank.embed.decoding import PixelTransform
from xmrank.embed.model_source import (
    ModelSource,
    check_model,
    find_model,
    first_line,
    needs_quick_gelu,
    quiet_open_clip,
    register_bundled,
)
from xmrank.runtime.errors import ConfigError

# Before open_clip is told to make any model.
register_bundled()


@dataclass(frozen=True)
class Encoder:
    """A loaded model, its transform and its tokenizer.

    Attributes:
        name: open_clip's name of the model; that of a folder or file without its path.
        model: in evaluation mode, on `device`.
        preprocess: one RGB image → float32 [3, H, W], open_clip's transform for evaluation.
        tokenizer: captions → int64 [captions, context length].
        dimensions: length d of an embedding.
        weights_hash: sha256 over the names, shapes, types and bytes of the weights.
        preprocessing: the settings of preprocess and tokenizer, JSON-able.
        architecture: hash of the model's configuration and tokenizer where they come from files; else None.
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
    architecture: str | None = None

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
        model: a name that open_clip knows, xmrank-tiny, local-dir:PATH of a folder with open_clip_config.json and
            weights, hf-hub:ORG/NAME of such a folder on the hub, or the path of a model's configuration, .json.
        pretrained: a tag that open_clip knows for the model (downloaded, or from its cache); the path of a local
            checkpoint, .safetensors or a .pt that holds weights only; "none" for an untrained model; "bundled", the
            default of xmrank-tiny and only there. None for a folder, which has its own.
        init_seed: seed of an untrained model's weights; needed for "none", refused otherwise.
        precision: fp32, bf16 or fp16.
        device: of the model.

    Raises:
        ConfigError: an unknown model, tag, file or precision, a checkpoint of another model or with code in it, or a
            download that failed; names the flag.
    """
    source, weights = check_model(model, pretrained, init_seed=init_seed, precision=precision)
    # A seed of its own for the weights, without a change to the caller's random numbers.
    with quiet_open_clip(), torch.random.fork_rng(enabled=init_seed is not None):
        if init_seed is not None:
            torch.manual_seed(init_seed)
        loaded, preprocess = _create_model(source, weights, precision, device)
        tokenizer = tokenizer_of(model)
    return Encoder(
        name=source.name,
        model=loaded,
        preprocess=preprocess,
        tokenizer=tokenizer,
        dimensions=open_clip.get_model_config(source.identifier)["embed_dim"],
        weights_hash=hash_weights(loaded),
        preprocessing=_describe_preprocessing(loaded, tokenizer)
        | ({"quick_gelu": True} if needs_quick_gelu(source.identifier, weights) else {}),
        device=torch.device(device),
        input_dtype=open_clip.get_input_dtype(precision) or torch.float32,
        architecture=source.architecture,
    )


def tokenizer_of(model: str) -> Callable[[list[str]], Tensor]:
    """The tokenizer of a model.

    Raises:
        ConfigError: it cannot be loaded.
    """
    try:
        return cast(Callable[[list[str]], Tensor], open_clip.get_tokenizer(find_model(model).identifier))
    except ImportError as error:
        package = error.name or "transformers"
        raise ConfigError(f"--model {model}: its tokenizer needs {package}: pip install {package}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"--model {model}: its tokenizer could not be loaded: {first_line(error)}") from None


def hash_weights(model: nn.Module) -> str:
    """sha256 over the names, shapes, types and bytes of a model's state, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        # With names and shapes: equal bytes in another order are other weights.
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _create_model(
    source: ModelSource, weights: str | None, precision: str, device: str | torch.device
) -> tuple[nn.Module, Callable[[Image.Image], Tensor]]:
    try:
        # The transform for training is not used.
        created, _, preprocess = open_clip.create_model_and_transforms(
            source.identifier,
            pretrained=weights if source.weights is None else None,  # it finds those of a folder itself
            precision=precision,
            device=device,
            pretrained_text=False,  # its default fetches a language model's weights, even for an untrained model
            require_pretrained=weights is not None,
            force_quick_gelu=needs_quick_gelu(source.identifier, weights),
        )
    except Exception as error:
        raise ConfigError(_explain_failure(source, weights, error)) from error
    return created.eval(), preprocess


def _explain_failure(source: ModelSource, weights: str | None, error: Exception) -> str:
    """Why a model could not be created, in one line."""
    model = source.identifier
    if weights is None or source.weights is not None:
        return f"--model {model}: could not be created: {first_line(error)}"
    # A tag is downloaded, a checkpoint is read: they fail for different reasons.
    tag = open_clip.get_pretrained_cfg(model, weights)
    if not tag:
        return f"--pretrained {weights}: does not fit {model}: {first_line(error)}"
    source = tag.get("hf_hub") or tag.get("url")
    return (
        f"--pretrained {weights}: the weights could not be downloaded from {source}: {first_line(error)}; "
        "without a network, give the path of a checkpoint"
    )


def _describe_preprocessing(model: nn.Module, tokenizer: object) -> dict[str, Any]:
    # Through JSON, so that it equals what is read back from a store.
    described = {
        "image": open_clip.get_model_preprocess_cfg(model),
        "tokenizer": type(tokenizer).__name__,
        "context_length": getattr(tokenizer, "context_length", None),
    }
    return dict(json.loads(json.dumps(described)))
