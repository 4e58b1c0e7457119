"""The tokens of images and captions, from a layer of any open_clip model, in the same pass as the embeddings."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from xmrank.config.embed import TokenSettings
from xmrank.embed.encoder import Encoder
from xmrank.runtime.errors import ConfigError


@dataclass(frozen=True)
class TokenBatch:
    """The tokens of a batch of items, one item's after the other's.

    Attributes:
        values: float32 [tokens of all items, channels], on the encoder's device.
        counts: tokens of every item.
    """

    values: Tensor
    counts: list[int]


@dataclass(frozen=True)
class TokenExtractor:
    """Encodes images and captions as its encoder does, and keeps the tokens of one layer.

    Raises:
        ConfigError: the model has fewer layers than the settings say, or does not give its tokens away.
    """

    encoder: Encoder
    settings: TokenSettings

    def __post_init__(self) -> None:
        if not hasattr(self.encoder.model, "forward_intermediates"):
            raise ConfigError(f"--tokens: {self.encoder.name} does not give its intermediate layers away")
        for flag, layer, last in (
            ("--image-token-layer", self.settings.image_layer, count_image_layers(self.encoder.model.visual) - 1),
            # One more: the word embeddings that the first layer reads.
            ("--text-token-layer", self.settings.text_layer, count_text_layers(self.text_tower)),
        ):
            if layer > last:
                raise ConfigError(f"{flag} {layer}: expected at most {last}, the first layer of {self.encoder.name}")

    @property
    def text_tower(self) -> Any:
        """The module with the text transformer: older models hold its parts themselves."""
        model = self.encoder.model
        return model.text if hasattr(model, "text") else model

    @cached_property
    def special_ids(self) -> Tensor | None:
        """The ids of start, end and padding; None: captions lie between the first token and the end token."""
        # The tokenizer of the library transformers, in open_clip's wrapper.
        inner: Any = getattr(self.encoder.tokenizer, "tokenizer", None)
        if inner is None:
            return None
        # An unknown word is a word.
        return torch.tensor(sorted(set(inner.all_special_ids) - {inner.unk_token_id}))

    @torch.inference_mode()
    def encode_images(self, images: Tensor) -> tuple[Tensor, TokenBatch]:
        """Images as for ``Encoder.encode_images`` → its result, and their tokens, row by row of the map."""
        visual: Any = self.encoder.model.visual
        layer = -1 - self.settings.image_layer
        # open_clip's ResNet stops after the last stage that is wanted, so all are.
        stages = None if isinstance(visual, ModifiedResNet) else [layer]
        made = self.encoder.model.forward_intermediates(
            image=self.encoder.finish_pixels(images),
            image_indices=stages,
            normalize=False,
            normalize_intermediates=fits_norm(visual),
        )
        chosen = made["image_intermediates"][layer if stages is None else 0].float()
        tokens = pool_map(chosen, self.settings.grid).flatten(2).transpose(1, 2)
        counts = [tokens.shape[1]] * len(tokens)
        return F.normalize(made["image_features"].float(), dim=-1), TokenBatch(tokens.flatten(0, 1), counts)

    @torch.inference_mode()
    def encode_tokens(self, ids: Tensor) -> tuple[Tensor, TokenBatch]:
        """The tokenizer's output as for ``Encoder.encode_tokens`` → its result, and the tokens of the word pieces.

        Start, end and padding are dropped; a caption without any word keeps its first token.
        """
        ids = ids.to(self.encoder.device)
        features, states = self._encode_states(ids)
        words = find_words(ids, self.special_ids)
        return F.normalize(features.float(), dim=-1), TokenBatch(states[words].float(), words.sum(1).tolist())

    def _encode_states(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The captions' features [B, d] and the states of the layer [B, context length, channels]."""
        tower, layer = self.text_tower, -1 - self.settings.text_layer
        if is_hugging_face(tower):
            return encode_hugging_face(self.encoder.model, ids, layer)
        words_only = self.settings.text_layer == count_text_layers(tower)
        made = self.encoder.model.forward_intermediates(
            text=ids,
            text_indices=[-1 if words_only else layer],
            normalize=False,
            normalize_intermediates=True,
            text_output_fmt="NLC",
        )
        states: Tensor = tower.token_embedding(ids) if words_only else made["text_intermediates"][0]
        return made["text_features"], states


def count_image_layers(visual: Any) -> int:
    """How many layers of an image tower can be chosen from: blocks of a transformer, stages of another network."""
    if isinstance(visual, ModifiedResNet):
        return 5  # its stem is the first stage
    if hasattr(visual, "trunk"):  # a model of timm
        return len(visual.trunk.feature_info)
    return len(visual.transformer.resblocks)


def count_text_layers(tower: Any) -> int:
    """The blocks of a text transformer."""
    if is_hugging_face(tower):
        return int(tower.config.num_hidden_layers)
    return len(tower.transformer.resblocks)


def is_hugging_face(tower: Any) -> bool:
    """Whether a text tower is a model of the library transformers."""
    return not hasattr(getattr(tower, "transformer", None), "resblocks")


def fits_norm(visual: Any) -> bool:
    """Whether the image tower's last norm can be applied to its tokens: after attention pooling, widths differ."""
    norm = getattr(visual, "ln_post", None)
    return norm is None or tuple(norm.normalized_shape) == (visual.transformer.width,)


def pool_map(values: Tensor, grid: int) -> Tensor:
    """A map [B, channels, height, width] averaged to at most ``grid`` rows and columns; 0: as it is."""
    height, width = values.shape[2:]
    if not grid or (height <= grid and width <= grid):
        return values
    return F.adaptive_avg_pool2d(values, (min(grid, height), min(grid, width)))


def find_words(ids: Tensor, special: Tensor | None) -> Tensor:
    """Where a caption's word pieces are, bool [B, context length]; at least one a caption.

    Args:
        ids: of the tokenizer, [B, context length].
        special: ids that are no words; None: words lie between the first token and the end token, which has the
            largest id. In open_clip's own tokenizer, the id of the padding is also that of an exclamation mark.
    """
    if special is None:
        position = torch.arange(ids.shape[1], device=ids.device)
        words = (position > 0) & (position < ids.argmax(1, keepdim=True))
    else:
        words = ~torch.isin(ids, special.to(ids.device))
    words[:, 0] |= ~words.any(1)
    return words


def encode_hugging_face(model: nn.Module, ids: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """The features [B, d] of captions, and the hidden states of a layer [B, context length, channels].

    open_clip's wrapper keeps the hidden states to itself: a hook takes them on their way.
    """
    transformer: Any = model.text.transformer  # type: ignore[union-attr]
    kept: dict[str, Tensor] = {}

    def keep_states(_module: nn.Module, _inputs: object, output: Any) -> None:
        kept["states"] = output.hidden_states[layer]

    transformer.config.output_hidden_states = True
    handle = transformer.register_forward_hook(keep_states)
    try:
        features: Tensor = model.encode_text(ids)  # type: ignore[operator]
    finally:
        handle.remove()
    return features, kept["states"]
