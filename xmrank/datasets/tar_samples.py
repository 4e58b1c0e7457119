"""Which members of a tar are one sample: those of one key, whatever dots the key has."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from xmrank.datasets.caption_texts import TEXT_LIMIT
from xmrank.datasets.tar_index import TarMember
from xmrank.datasets.uris import IMAGE_SUFFIXES

TEXTS = ("txt", "text", "caption", "caption.txt", "captions.txt")
JSON, CLASS = "json", "cls"
READ = (*TEXTS, JSON, CLASS)
KNOWN = tuple(f".{name}" for name in sorted(READ, key=len, reverse=True)) + tuple(IMAGE_SUFFIXES)
"""The ends of names that samples are made of, the longer ones of the same end first."""


@dataclass
class SampleParts:
    """The members of one key.

    Attributes:
        image: the first one.
        texts: content by extension; None: longer than ``TEXT_LIMIT``.
        occurs_twice: whether an extension does: then nothing tells which image and text belong together.
    """

    image: TarMember | None = None
    texts: dict[str, bytes | None] = field(default_factory=dict)
    occurs_twice: bool = False


def group_members(members: Sequence[TarMember]) -> tuple[dict[str, SampleParts], list[str]]:
    """Key → parts, in the tar's order, and the names of the members that belong to no sample.

    WebDataset's key ends at the first dot, but names like ``shop v2.1.jpg`` have dots of their own. So an image and a
    text that differ in the known extension only are a sample. What has no such counterpart belongs to the key up to
    the first dot: in ``a.jpg``, ``a.txt``, ``a.mask.png``, the mask is no sample.
    """
    named = [(member, *split_name(member.name)) for member in members]
    images = {key for _, key, extension in named if is_image(extension)}
    texts = {key for _, key, extension in named if extension in READ}
    parts_of: dict[str, SampleParts] = {}
    others = []
    for member, key, extension in named:
        chosen = choose_key(key, extension, images, texts)
        if chosen is None or not add_member(parts_of.setdefault(chosen, SampleParts()), member, extension):
            others.append(member.name)
    return parts_of, others


def choose_key(key: str, extension: str, images: set[str], texts: set[str]) -> str | None:
    """The key of the sample that a member belongs to; None for a member of none.

    Args:
        key, extension: of the member.
        images, texts: the keys of all images, and of all texts.
    """
    if not key or not extension:
        return None
    short = shorten_key(key)
    if short == key or key in (texts if is_image(extension) else images):
        return key
    # Another picture or text of a sample that has its own: a mask, a caption in another language.
    if short in images:
        return None
    return short if is_image(extension) and short in texts else key


def add_member(parts: SampleParts, member: TarMember, extension: str) -> bool:
    """Add a member to its sample; False for a second image in another format."""
    if not is_image(extension):
        parts.occurs_twice |= extension in parts.texts
        parts.texts[extension] = member.content
        return True
    if parts.image is None:
        parts.image = member
        return True
    parts.occurs_twice |= split_name(parts.image.name)[1] == extension
    return False


def is_image(extension: str) -> bool:
    """Whether members with this extension are images."""
    return f".{extension}" in IMAGE_SUFFIXES


def split_name(name: str) -> tuple[str, str]:
    """Key and known extension of a member; the extension is empty where it is none of those."""
    name = name.removeprefix("./")
    lower = name.lower()
    end = next((end for end in KNOWN if lower.endswith(end)), None)
    # A name that is nothing but an extension is a hidden file.
    if end is None or lower.rpartition("/")[2] == end:
        return name, ""
    return name[: -len(end)], end[1:]


def shorten_key(key: str) -> str:
    """The key as WebDataset has it: up to the first dot after the folders."""
    folder, slash, file = key.rpartition("/")
    return folder + slash + file.partition(".")[0]


def is_wanted(name: str, size: int) -> bool:
    """Whether a member is a text that is read with the headers."""
    return split_name(name)[1] in READ and size <= TEXT_LIMIT
