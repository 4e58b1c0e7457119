"""What every reader of data sets can be told. The command line takes the settings of the one that ``--dataset`` names.

A reader's dataclass has all settings of the reader, and its ``name``; attribute docstrings are the ``--help`` texts.
Imports are ``implied`` by their flags: ``--import-images`` needs no ``--dataset arrays``.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from xmrank.runtime.errors import ConfigError


@dataclass(frozen=True)
class ScenesConfig:
    """The generated data set."""

    train: int = 2000
    """Images of the training split."""
    val: int = 400
    """Images of the validation split."""
    test: int = 400
    """Images of the test split."""
    seed: int = 0
    """Seed of the scenes; another seed gives other images and captions."""
    folder: Path = Path("data")
    """Folder under which the generated images and captions are kept."""

    def __post_init__(self) -> None:
        for name in ("train", "val", "test"):
            if getattr(self, name) < 0:
                raise ConfigError(f"--scenes.{name} {getattr(self, name)}: expected at least 0")


@dataclass(frozen=True)
class ColumnsConfig:
    """Names of the table's columns where they are not the usual ones (caption, caption_0, …)."""

    image: str | None = None
    """Column of the images: paths, or the images themselves."""
    caption: tuple[str, ...] = ()
    """Columns of the captions, one or more."""
    id: str | None = None
    """Column of the images' ids; rows with the same id are captions of one image."""


@dataclass(frozen=True, kw_only=True)
class NamedSplits:
    """Data with a field or column that names the split."""

    split_field: str = "split"
    """Field or column that names an image's split."""


@dataclass(frozen=True, kw_only=True)
class DrawnSplits:
    """Data that may come without splits."""

    held_out: float = 0.1
    """Data that names no splits: fraction of the images that becomes val, and as much test, by the hash of their ids.
    """

    def __post_init__(self) -> None:
        if not 0 <= self.held_out < 0.5:
            raise ConfigError(f"--held-out {self.held_out}: expected a fraction of at least 0, below 0.5")


@dataclass(frozen=True, kw_only=True)
class ScenesSettings:
    """Scenes of digits and shapes, generated on the spot."""

    name: ClassVar[str] = "scenes"
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    """Sizes and seed."""


@dataclass(frozen=True, kw_only=True)
class KarpathySettings(NamedSplits, DrawnSplits):
    """Karpathy's JSON and a folder of images."""

    name: ClassVar[str] = "karpathy"
    annotations: Path
    """The JSON file, or a pattern: a local path or a URI (s3://…), as for --images."""
    images: Path
    """The folder of the images."""
    columns: ClassVar[ColumnsConfig] = ColumnsConfig()


@dataclass(frozen=True, kw_only=True)
class JsonSettings(NamedSplits, DrawnSplits):
    """JSON lists or lines of images and captions, and a folder of images."""

    name: ClassVar[str] = "json"
    annotations: Path
    """The file (.json, .jsonl), or a pattern (flickr30k_*.json): a local path or a URI (s3://…), as for --images."""
    images: Path
    """The folder that the paths start from."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """Names of the objects' fields."""


@dataclass(frozen=True, kw_only=True)
class CocoSettings(NamedSplits, DrawnSplits):
    """COCO's captions JSON and a folder of images."""

    name: ClassVar[str] = "coco"
    annotations: Path
    """The JSON file, or a pattern (captions_*2017.json): a local path or a URI (s3://…), as for --images."""
    images: Path
    """The folder of the images, or the folder above train2017 and val2017."""


@dataclass(frozen=True, kw_only=True)
class CsvSettings(NamedSplits, DrawnSplits):
    """A table in text form and a folder of images."""

    name: ClassVar[str] = "csv"
    annotations: Path
    """The table, separated by commas, tabs, | or ;, or a pattern: a local path or a URI (s3://…), as for --images."""
    images: Path
    """The folder that the table's paths start from."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """Names of columns."""


@dataclass(frozen=True, kw_only=True)
class FolderSettings(DrawnSplits):
    """A folder of images with .txt files beside them."""

    name: ClassVar[str] = "folder"
    images: Path
    """The folder: a local path or a URI (s3://…)."""


@dataclass(frozen=True, kw_only=True)
class HuggingFaceSettings(NamedSplits, DrawnSplits):
    """Parquet files, an image folder or tars, as on Hugging Face's hub."""

    name: ClassVar[str] = "huggingface"
    images: Path
    """A folder, a URI (s3://…), or a name on the hub (owner/name, owner/name@revision)."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """Names of columns."""


@dataclass(frozen=True, kw_only=True)
class WebDatasetSettings(NamedSplits, DrawnSplits):
    """Tars of images and texts."""

    name: ClassVar[str] = "webdataset"
    images: Path
    """A tar, a folder of tars, or a pattern (pairs-{000..099}.tar): a local path or a URI (s3://…)."""


@dataclass(frozen=True, kw_only=True)
class ArraySettings(NamedSplits):
    """Embeddings that exist, as two arrays."""

    name: ClassVar[str] = "arrays"
    implied: ClassVar[bool] = True
    import_images: Path
    """Image embeddings: .npy, [images, d]."""
    import_texts: Path
    """Caption embeddings: .npy, [captions, d]."""
    import_ids: Path | None = None
    """JSON with image_ids and caption_ids in row order, the split field, caption_image (the image row of every caption;
    without it, captions are image by image, five each), and perhaps texts (the captions). Required without
    --import-regions."""
    import_image_tokens: Path | None = None
    """Tokens of the images: .npy, [images, tokens, width], or [tokens of all images, width] with offsets."""
    import_image_token_offsets: Path | None = None
    """Where each image's tokens begin: .npy of integers, [images + 1]."""
    import_text_tokens: Path | None = None
    """Tokens of the captions, likewise."""
    import_text_token_offsets: Path | None = None
    """Where each caption's tokens begin: .npy of integers, [captions + 1]."""
    import_regions: Path | None = None
    """Folder of region features as SCAN, VSE∞ and SGRAF use them, instead of ids and image tokens: train_ims.npy
    [images, regions, width], train_caps.txt with five captions an image, and likewise dev (or val) and test. The
    embeddings have the same order: train, dev, test."""

    def __post_init__(self) -> None:
        if (self.import_ids is None) == (self.import_regions is None):
            raise ConfigError("--import-ids: required, or --import-regions in its stead; not both")
        if self.import_regions and (self.import_image_tokens or self.split_field != "split"):
            raise ConfigError("--import-regions: has image tokens and splits; leave out others")
        for side in ("image", "text"):
            if getattr(self, f"import_{side}_token_offsets") and not getattr(self, f"import_{side}_tokens"):
                raise ConfigError(f"--import-{side}-token-offsets: only with --import-{side}-tokens")

    @property
    def imports_tokens(self) -> bool:
        """Whether tokens are imported too."""
        return bool(self.import_image_tokens or self.import_text_tokens or self.import_regions)


@dataclass(frozen=True, kw_only=True)
class ClipRetrievalSettings(NamedSplits, DrawnSplits):
    """Embeddings that clip-retrieval made."""

    name: ClassVar[str] = "clip-retrieval"
    implied: ClassVar[bool] = True
    import_clip_retrieval: Path
    """Folder that clip-retrieval wrote: img_emb, text_emb and metadata."""


ReaderSettings = (
    ScenesSettings
    | KarpathySettings
    | CocoSettings
    | CsvSettings
    | JsonSettings
    | FolderSettings
    | HuggingFaceSettings
    | WebDatasetSettings
)
"""The settings of data sets that are read and embedded."""
ImportSettings = ArraySettings | ClipRetrievalSettings
"""The settings of embeddings that are imported."""
