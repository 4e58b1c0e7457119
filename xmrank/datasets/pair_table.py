"""Collects the images and captions of a reader. What readers must not decide each for itself is decided here: an
image's id, the names of splits, what is left out and held against ``--max-broken``."""

from collections.abc import Hashable, Iterable, Sequence

import pyarrow as pa

from xmrank.datasets.caption_column import BrokenCaption, CaptionColumn, SoundCaptions
from xmrank.datasets.caption_texts import MISSING
from xmrank.datasets.dataset import CAPTIONS, IMAGES, Dataset
from xmrank.datasets.labels import number_labels
from xmrank.datasets.left_out import LeftOut
from xmrank.datasets.locations import leads_outside
from xmrank.datasets.splits import draw_splits, usual_split
from xmrank.runtime.errors import DataError
from xmrank.runtime.paths import PathOrUri

NO_CAPTION = "has no caption"


class PairTable:
    """Images and captions in the order of reading. Each image has a row.

    Args:
        source: the file or folder that messages name.

    Attributes:
        row_of: an image's identity (what tells pictures apart: a path, a member of a tar, an entry) → its row.
        names: the possible ids of each image, from the shortest to the longest.
        captions: of all images.
        left_out: what is not taken.
        containers: location → size of the files whose rows are images.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.row_of: dict[Hashable, int] = {}
        self.names: list[tuple[str, ...]] = []
        self.locations: list[str] = []
        self.splits: list[str | None] = []
        self.labels: list[list[int | str]] = []
        self.captions = CaptionColumn()
        self.left_out = LeftOut()
        self.containers: dict[str, int] = {}
        self._first_level = 0

    def ignore_first_names(self, why: str) -> None:
        """Choose ids among the images' second names: the first ones turned out to be none; ``why`` is recorded."""
        self._first_level = 1
        self.left_out.unused[why] = 1

    def add_image(
        self,
        identity: Hashable,
        location: str,
        names: tuple[str, ...],
        split: str | None,
        labels: Iterable[int | str] = (),
    ) -> int:
        """Add an image that is not there yet; returns its row.

        Args:
            identity: tells it apart from other images.
            location: of its bytes, below the root.
            names: its possible ids, from the shortest to the longest: the first that is an image's own in all data.
            split: its name in the data; None: they name none.
            labels: its classes.

        Raises:
            DataError: the image is there already, or its location leads out of the root.
        """
        if identity in self.row_of:
            raise DataError(f'{self.source}: image id "{names[0]}" occurs more than once')
        # The data may come from anywhere: its paths must not lead to other files of this machine.
        if leads_outside(location):
            raise DataError(f'{self.source}: image "{location}" lies outside of the image folder')
        row = self.row_of[identity] = len(self.names)
        self.names.append(names)
        self.locations.append(location)
        self.splits.append(usual_split(split) if split is not None else None)
        self.labels.append(list(labels))
        return row

    def add_labels(self, row: int, labels: Iterable[int | str]) -> None:
        """Add the labels that an image does not have yet."""
        self.labels[row] += [label for label in labels if label not in self.labels[row]]

    def make_dataset(self, name: str, root: PathOrUri, held_out: float, max_broken: float) -> Dataset:
        """The two tables, without broken captions and without images that have no other.

        Args:
            name: of the reader.
            root: folder that the locations are relative to.
            held_out: fraction of the images that becomes val, and as much test, where no image has a split.
            max_broken: fraction of the images, and of the captions, that may be left out.

        Raises:
            DataError: more of the images or captions are broken than ``max_broken``; only some images have a split;
                two images have the same id.
        """
        sound, broken = self.captions.sift(len(self.names))
        kept = self._leave_out_broken(sound, broken)
        self.left_out.refuse_too_many(max_broken, len(kept), len(sound), self.source)
        id_of = self._choose_ids(kept)
        ids = list(id_of.values())
        drawn = all(self.splits[row] is None for row in kept)
        splits = draw_splits(ids, held_out) if drawn else self._known_splits(id_of)
        labels = number_labels([self.labels[row] for row in kept], ids, self.source)
        locations = [self.locations[row] for row in kept]
        images = pa.table([pa.array(ids, pa.string()), locations, splits, labels], schema=IMAGES)
        captions = self._make_captions(sound, id_of, dict(zip(kept, splits, strict=True)))
        left_out = self.left_out
        return Dataset(
            name, root, images, captions, left_out.entries, self.containers, left_out.reasons, left_out.unused, drawn
        )

    def _leave_out_broken(self, sound: SoundCaptions, broken: Sequence[BrokenCaption]) -> list[int]:
        """Record broken captions under their images; returns the rows of the images that have others."""
        faults: dict[int, list[BrokenCaption]] = {}
        for caption in broken:
            faults.setdefault(caption.row, []).append(caption)
        described = set(sound.rows)
        kept = []
        for row, names in enumerate(self.names):
            mine = faults.get(row, [])
            if row in described:
                kept.append(row)
            elif all(caption.fault == MISSING for caption in mine):
                self.left_out.add_image(names[0], NO_CAPTION)
                continue
            if mine:
                kind = f"caption {mine[0].fault}"
                self.left_out.add_image(names[0], mine[0].reason, len(mine), kind=kind, stays=row in described)
        return kept

    def _choose_ids(self, kept: Sequence[int]) -> dict[int, str]:
        """Row → id: the images' first names or, where two are the same, the second names of all, and so on."""
        names = [self.names[row] for row in kept]
        ids: list[str] = []
        for level in range(self._first_level, max(map(len, names), default=0)):
            ids = [own[min(level, len(own) - 1)] for own in names]
            if len(set(ids)) == len(ids) and "" not in ids:
                break
        # What no level tells apart is refused by check_dataset, as it is for every data set.
        return dict(zip(kept, ids, strict=True))

    def _known_splits(self, id_of: dict[int, str]) -> list[str]:
        """The images' splits as the data name them."""
        splits = [self.splits[row] for row in id_of]
        known = [split for split in splits if split is not None]
        # Drawing splits for the rest would mix them with splits that were made on purpose.
        if len(known) < len(splits):
            image_id = next(image_id for row, image_id in id_of.items() if self.splits[row] is None)
            raise DataError(f'{self.source}: image "{image_id}" has no split, others have one, like "{known[0]}"')
        return known

    def _make_captions(self, sound: SoundCaptions, id_of: dict[int, str], split_of: dict[int, str]) -> pa.Table:
        """The table of captions in the images' order."""
        sound = sound.sort_by_row()
        image_ids = [id_of[row] for row in sound.rows]
        caption_ids = [f"{image_id}#{number}" for image_id, number in zip(image_ids, sound.numbers, strict=True)]
        # The data's own ids, if they are all different.
        own = [name for name in sound.own_ids if name is not None]
        if len(set(own)) == len(own):
            named = zip(sound.own_ids, caption_ids, strict=True)
            caption_ids = [made if name is None else name for name, made in named] if own else caption_ids
        else:
            self.left_out.unused["caption ids of the data (they repeat)"] = len(own)
        splits = [split_of[row] for row in sound.rows]
        columns = [pa.array(column, pa.string()) for column in (caption_ids, image_ids, sound.texts, splits)]
        return pa.table(columns, schema=CAPTIONS)
