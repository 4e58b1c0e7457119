"""The card of a pushed stage: what it is, its figures, what was run, how to use it, the licence."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from xmrank.config.hub import PushConfig, RepositoryName
from xmrank.hub.requests import MODEL, uri_of
from xmrank.pages.markdown_text import escape_markdown, format_table
from xmrank.pages.wording import describe_value
from xmrank.report.result_tables import ResultTable
from xmrank.runtime.files import read_kept_json
from xmrank.runtime.manifest import Manifest

LICENCE_MISSING = "Not stated: without the owner's word, all rights are reserved."
WHAT = {
    "train": "Rankers for image–text retrieval: each re-ranks the candidates that a dual encoder retrieves.",
    "embed": "Embeddings of the images and captions of a data set.",
    "mine": "Candidate lists for training and testing rankers: for each query, right answers and hard negatives.",
    "evaluate": "Rankings and the metrics of every query.",
    "baselines": "Rankings and the metrics of every query, of baselines.",
    "report": "The result tables of an experiment.",
    "train_encoder": "A dual encoder for images and captions.",
}
"""What a stage's directory is."""
TAGS = {"train": ["image-text-retrieval", "learning-to-rank", "re-ranking"], "embed": ["embeddings"]}
PYTHON = {
    "train": 'from xmrank import load_ranker\n\nranker = load_ranker("{uri}", direction="{direction}")',
    "embed": 'from xmrank import EmbeddingStore\n\nstore = EmbeddingStore.open("{uri}")\nprint(store.image.shape)',
    "mine": 'from xmrank import CandidateLists\n\nlists = CandidateLists.read("{uri}/{direction}-train.parquet")',
}
"""How a stage's output is read from Python."""
PYTHON_OTHERS = (
    'from huggingface_hub import snapshot_download\n\nfolder = snapshot_download("{name}", repo_type="{kind}")'
)
SHELL = {
    "train": "xmrank rank --ranker {folder} --embeddings GALLERY --queries captions.txt --output ranking",
    "embed": "xmrank mine --embeddings {folder} --output lists",
    "mine": "xmrank train --embeddings EMBEDDINGS --lists {folder} --output rankers",
}
"""A command that reads a stage's output."""


@dataclass(frozen=True)
class Figures:
    """What an evaluation says of rankers.

    Attributes:
        lead: the result in a sentence.
        run_card: name and value of what was run.
    """

    lead: str = ""
    tables: Sequence[str] = ()
    run_card: list[tuple[str, str]] = field(default_factory=list)


def make_card(config: PushConfig, directory: Path, manifest: Manifest, kind: str, figures: Figures) -> str:
    """The text of a repository's README.md.

    Args:
        config: names the repository and the licence.
        directory: of the stage.
        manifest: as it is published.
        kind: model or dataset.
        figures: of rankers; empty for other stages.
    """
    target, stage = RepositoryName.parse(config.repository), manifest.stage
    names = {"uri": uri_of(target, kind), "name": target.name, "kind": kind, "folder": target.name.partition("/")[2]}
    names["direction"] = first_direction(manifest)
    environment = Environment(
        loader=PackageLoader("xmrank.hub"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - Markdown; what comes from the run is escaped for it
    )
    pull = "xmrank pull {}{name} {folder}".format("" if kind == MODEL else "datasets/", **names)
    run_card = [*(figures.run_card or describe_stage(directory, manifest)), *describe_identity(manifest)]
    text = environment.get_template("card.md.jinja").render(
        title=escape_markdown(target.name.partition("/")[2]),
        what=WHAT.get(stage, f"The output of the stage {stage}."),
        version=manifest.xmrank,
        summary=escape_markdown(figures.lead),
        tables="\n".join(figures.tables).strip(),
        run_card="\n".join(format_table(("", ""), run_card)),
        python=PYTHON.get(stage, PYTHON_OTHERS).format(**names),
        shell="\n".join([pull, *([SHELL[stage].format(**names)] if stage in SHELL else [])]),
        uri=names["uri"],
        licence=f"{config.licence}" if config.licence else LICENCE_MISSING,
        left_out="\n".join(f"- {escape_markdown(describe_value(entry))}" for entry in manifest.left_out[:8]),
    )
    return f"---\n{describe_metadata(config, manifest, kind)}\n---\n\n{text}"


def describe_metadata(config: PushConfig, manifest: Manifest, kind: str) -> str:
    """The YAML at the head of the card, by which the hub finds and sorts repositories."""
    tags = ["xmrank", *TAGS.get(manifest.stage, [])]
    if kind == MODEL:
        return ModelCardData(license=config.licence, library_name="xmrank", tags=tags).to_yaml()
    return DatasetCardData(license=config.licence, tags=tags).to_yaml()


def describe_stage(directory: Path, manifest: Manifest) -> list[tuple[str, str]]:
    """What a stage was made with: its encoder, its settings, its counts."""
    entries: list[tuple[str, Any]] = [("Data set", manifest.settings.get("dataset"))]
    if "encoder.json" in manifest.outputs:
        encoder = read_kept_json(directory / "encoder.json", dict)
        entries.append(("Encoder", {name: encoder.get(name) for name in ("name", "pretrained", "dimensions")}))
    entries += [(name.replace("_", " ").capitalize(), value) for name, value in manifest.config.items()]
    entries += [(name.replace("_", " ").capitalize(), value) for name, value in manifest.counts.items()]
    unset: tuple[Any, ...] = (None, "", [], {})
    return [(name, describe_value(value)) for name, value in entries if value not in unset]


def describe_identity(manifest: Manifest) -> list[tuple[str, str]]:
    """The fingerprints by which stages know what they were made from."""
    named = [(f"Fingerprint of {name}", value) for name, value in manifest.inputs.items()]
    return [*named, ("Fingerprint", manifest.fingerprint)]


def first_direction(manifest: Manifest) -> str:
    """A direction that the stage has, for the example."""
    directions = manifest.config.get("directions")
    return str(directions[-1]) if isinstance(directions, list) and directions else "t2i"


def format_tables(tables: Sequence[ResultTable]) -> list[str]:
    """The result tables as lines of Markdown."""
    from xmrank.report.markdown import result_lines

    return [line for table in tables for line in result_lines(table, None)]
