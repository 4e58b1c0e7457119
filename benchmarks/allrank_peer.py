"""allRank 1.4.3, to compare with: installed into a folder of its own, with the few patches that current packages need.

These modules are replaced at run time. Nothing else of allRank is changed:
    gcsfs, pkg_resources  only needed for cloud files and packaged configurations; replaced by empty modules
    tensorboardX          its SummaryWriter is replaced by one that writes nothing, so that disk access is not measured
"""

import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

REQUIREMENT = "allRank==1.4.3"
LOSSES = {
    "listnet": ("listNet", {}),
    "lambdarank": ("lambdaLoss", {"weighing_scheme": "lambdaRank_scheme"}),
    "ranknet": ("rankNet", {}),
    "neural_ndcg": ("neuralNDCG", {}),
}
"""xmrank's name of a loss → allRank's name and parameters."""
NAMES = [  # allRank's parameter names → xmrank's, replaced in this order
    (r"^input_layer\.layers\.0\.", "input."),
    (r"^output_layer\.w_1\.", "output."),
    (r"^encoder\.", ""),
    (r"\.self_attn\.linears\.3\.", ".attention.output."),
    (r"\.feed_forward\.w_1\.", ".widen."),
    (r"\.feed_forward\.w_2\.", ".narrow."),
    (r"\.sublayer\.0\.norm\.", ".attention_norm."),
    (r"\.sublayer\.1\.norm\.", ".feed_forward_norm."),
    (r"norm\.a_2$", "norm.weight"),
    (r"norm\.b_2$", "norm.bias"),
]


def make_importable(scratch: Path) -> None:
    """Install allRank without its dependencies, and add it to the end of the import path.

    Args:
        scratch: the folder to install into; an installation that is already there is used again.
    """
    python = scratch / "allrank" / "bin" / "python"
    if not list(scratch.glob("allrank/lib/python*/site-packages/allrank")):
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(scratch / "allrank")], check=True)
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", REQUIREMENT]
        subprocess.run([str(python), *install], check=True, stdout=sys.stderr)
    (packages,) = scratch.glob("allrank/lib/python*/site-packages")
    # At the end of the path: the packages of this environment win over allRank's.
    sys.path.append(str(packages))
    for name in ("gcsfs", "pkg_resources", "tensorboardX"):
        sys.modules[name] = _empty_module(name)


def _empty_module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    module.Requirement = module.resource_filename = None  # type: ignore[attr-defined]
    module.SummaryWriter = _NoWriter  # type: ignore[attr-defined]
    return module


class _NoWriter:
    def __init__(self, *_: object) -> None: ...

    def add_scalar(self, *_: object) -> None: ...

    def close(self) -> None: ...


def make_model(width: int, layers: int, heads: int, feed_forward: int, inputs: int) -> nn.Module:
    """allRank's context-aware model, without positional encoding and dropout."""
    from allrank.config import TransformerConfig
    from allrank.models.model import make_model as make

    front = {"sizes": [width], "input_norm": False, "activation": None, "dropout": 0.0}
    encoder = TransformerConfig(N=layers, d_ff=feed_forward, h=heads, positional_encoding=None, dropout=0.0)
    model: nn.Module = make(front, encoder, {"d_output": 1, "output_activation": None}, inputs)
    return model


def make_loss(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """allRank's counterpart of the xmrank loss of this name."""
    import allrank.models.losses as losses

    theirs, parameters = LOSSES[name]
    function = getattr(losses, theirs)
    return lambda scores, labels: function(scores, labels, **parameters)


def as_ours(state: dict[str, Tensor], *, unbiased: bool) -> dict[str, Tensor]:
    """allRank's parameters under xmrank's names, with the three attention projections in one matrix.

    Args:
        state: allRank's state dict.
        unbiased: True for the layer norm that divides by the unbiased standard deviation, as allRank does. False: the
            scales are reduced to compensate for the biased standard deviation of the usual layer norm.
    """
    ours: dict[str, Tensor] = {}
    fused: dict[str, list[Tensor]] = {}
    for key, value in state.items():
        projection = re.fullmatch(r"encoder\.(layers\.\d+)\.self_attn\.linears\.[012]\.(weight|bias)", key)
        if projection:  # attention here has one matrix for queries, keys and values
            fused.setdefault(f"{projection[1]}.attention.qkv.{projection[2]}", []).append(value)
            continue
        if key.endswith("norm.a_2") and not unbiased:
            value = value * (1 - 1 / len(value)) ** 0.5
        for pattern, name in NAMES:
            key = re.sub(pattern, name, key)
        ours[key] = value
    return ours | {key: torch.cat(values) for key, values in fused.items()}


class DenseMatrix:
    """Takes the role of the sparse matrix that allRank's reader passes on and converts to a dense one at once."""

    def __init__(self, dense: Any) -> None:
        self.dense = dense

    def toarray(self) -> Any:
        """The dense matrix."""
        return self.dense


class Fit:
    """allRank's `fit` for one epoch, on data in memory, with a single metric (it needs at least one).

    Validation uses a single list, so that mainly training and the scoring of the training lists are measured.

    Args:
        features: [lists, items, columns], float64, as allRank's reader returns it.
        labels: [lists, items].
        batch: lists in a step.
        folder: where allRank writes its model.
    """

    def __init__(self, features: Any, labels: Any, batch: int, folder: Path) -> None:
        self.features, self.labels, self.batch, self.folder = features, labels, batch, folder
        self.loader, self.validation = self._loader(len(labels)), self._loader(1)

    def _loader(self, lists: int) -> Any:
        from allrank.data.dataset_loading import FixLength, LibSVMDataset, ToTensor
        from torchvision.transforms import Compose

        items = self.labels.shape[1]
        rows = self.features[:lists].reshape(lists * items, -1)
        # Its data set groups rows by the number of their query.
        queries = torch.arange(lists).repeat_interleave(items).numpy()
        made = LibSVMDataset(
            DenseMatrix(rows), self.labels[:lists].ravel(), queries, Compose([FixLength(items), ToTensor()])
        )
        return torch.utils.data.DataLoader(made, batch_size=self.batch, shuffle=True)

    def __call__(self, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], optimizer: Any) -> None:
        """Train for one epoch."""
        from allrank.training.train_utils import fit

        config = types.SimpleNamespace(metrics={"ndcg": [5]}, val_metric="ndcg_5")
        fit(
            epochs=1,
            model=model,
            loss_func=loss,
            optimizer=optimizer,
            scheduler=None,
            train_dl=self.loader,
            valid_dl=self.validation,
            config=config,
            gradient_clipping_norm=None,
            early_stopping_patience=1,
            device=torch.device("cpu"),
            output_dir=str(self.folder),
            tensorboard_output_path=str(self.folder),
        )
