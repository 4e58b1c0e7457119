"""Rankers and training states on disk: safetensors and JSON, written atomically."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xmrank.rankers import Ranker, rebuild_ranker
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import atomic_path, sha256_file, sha256_json, write_json
from xmrank.runtime.storage import local_copy
from xmrank.train.checkpoint_json import (
    ABOUT_HASH,
    META,
    STACK,
    UNREADABLE,
    WEIGHTS_HASH,
    hash_about,
    make_state_error,
    read_about,
    read_meta,
    shorten_message,
    verify_weights,
)
from xmrank.train.trials import RANKER, RANKER_JSON

CONTENTS = "contents_sha256"
"""In the header of a state: the hash of all that it holds."""


def save_ranker(directory: Path, ranker: Ranker, weights: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write a ranker's weights and what rebuilds it.

    Args:
        directory: where ``ranker.safetensors`` and ``ranker.json`` go.
        ranker: gives the description that rebuilds it.
        weights: the state dict to keep (the best epoch's).
        about: what the ranker was trained on and for; the JSON's other fields.
    """
    with atomic_path(directory / RANKER) as temporary:
        save_file({name: tensor.contiguous().cpu() for name, tensor in weights.items()}, temporary)
        sha256 = sha256_file(temporary)
    about = {**about, **ranker.describe(), WEIGHTS_HASH: sha256}
    write_json(directory / RANKER_JSON, {**about, ABOUT_HASH: hash_about(about)})


def read_ranker(directory: Path, device: torch.device | str = "cpu") -> tuple[Ranker, dict[str, Any]]:
    """A trained ranker in evaluation mode, and what its JSON says.

    Raises:
        DataError: no ranker there, or weights that are damaged or do not fit its parameters.
    """
    about = read_about(directory)
    verify_weights(directory, about)
    try:
        # On the CPU first: the file may have been written on another device.
        ranker = rebuild_ranker(about)
        ranker.load_state_dict(load_file(local_copy(directory / RANKER), device="cpu"))
    except (*UNREADABLE, OSError) as error:
        raise DataError(f"{directory}: not a ranker of this version: {shorten_message(error)}") from None
    return ranker.to(device).eval(), about


def save_state(
    path: Path,
    weights: dict[str, Tensor],
    best: dict[str, Tensor],
    moments: dict[str, Tensor],
    meta: dict[str, Any],
    stack: Sequence[str] = (),
) -> None:
    """Write all that a resumed training needs.

    Args:
        path: the file.
        weights: the model's state dict.
        best: its state dict at the best validation so far.
        moments: the optimiser's state, by name.
        meta: the rest, as JSON values.
        stack: names of the trials whose states are saved as one.
    """
    parts = {"model": weights, "best": best, "optimizer": moments}
    tensors = {f"{part}.{name}": tensor for part, named in parts.items() for name, tensor in named.items()}
    # The meta travels in the header of the file, so that one atomic write saves everything.
    header = {META: json.dumps(meta), STACK: json.dumps(list(stack))}
    # A copy each: safetensors refuses tensors that share memory.
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    header[CONTENTS] = json.dumps(hash_state(copies, header))
    with atomic_path(path) as temporary:
        save_file(copies, temporary, header)


def load_state(path: Path, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """Put a saved state's weights into a model; returns the best weights, the optimiser's moments, and ``meta``.

    Raises:
        DataError: a damaged file, or the state of another model.
    """
    meta = read_meta(path)
    refuse_changed_state(path)
    device = next(model.parameters()).device
    try:
        tensors = load_file(local_copy(path), device=str(device))
        model.load_state_dict(select_prefix(tensors, "model."))
    except UNREADABLE as error:
        raise make_state_error(path, error) from None
    return select_prefix(tensors, "best."), select_prefix(tensors, "optimizer."), meta


def hash_state(tensors: dict[str, Tensor], header: dict[str, str]) -> str:
    """The sha256 over the tensors of a state, on the CPU and contiguous, and over the rest of its header."""
    digest = hashlib.sha256(sha256_json([header[META], header[STACK]]).encode())
    for name in sorted(tensors):
        digest.update(sha256_json([name, str(tensors[name].dtype), list(tensors[name].shape)]).encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def refuse_changed_state(path: Path) -> None:
    """Raise DataError when a state is not what was saved: a training would go on from changed weights."""
    try:
        with safe_open(local_copy(path), "pt") as file:
            header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        unchanged = json.loads(header[CONTENTS]) == hash_state(tensors, header)
    except UNREADABLE as error:
        raise make_state_error(path, error) from None
    if not unchanged:
        raise make_state_error(path, ValueError("damaged: its contents are not those that were saved"))


def select_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose name begins with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
