"""Meaning of the names of protocols: "lists", "gallery", "top-100", "gallery-5x1000", "top-100-of-5x1000"."""

import re
from collections.abc import Iterable

TOP = re.compile(r"top-(\d+)(?:-of-(.+))?")


def first_stage_protocol(protocol: str) -> str:
    """The protocol of the first stage's figures: for a top N, the whole gallery that it was taken from."""
    match = TOP.fullmatch(protocol)
    if not match:
        return protocol
    return f"gallery-{match[2]}" if match[2] else "gallery"


def reranking_depth(protocol: str) -> int:
    """N of a top N; 0 for any other protocol."""
    match = TOP.fullmatch(protocol)
    return int(match[1]) if match else 0


def protocol_name(protocol: str) -> str:
    """A protocol as a heading: "top-100" is "Full gallery, top 100 re-ranked"."""
    if protocol == "lists":
        return "Candidate lists"
    depth = reranking_depth(protocol)
    return gallery_name(first_stage_protocol(protocol)) + (f", top {depth} re-ranked" if depth else "")


def gallery_name(gallery: str) -> str:
    """A gallery as a heading."""
    match = re.fullmatch(r"gallery-(?:(\d+)x)?(\d+)", gallery)
    if not match:
        return "Full gallery"
    images = f"{int(match[2]):,} images"
    return f"{match[1]} galleries of {images}" if match[1] else f"Gallery of {images}"


def shown_protocols(by_rankers: Iterable[str], by_any: Iterable[str]) -> list[str]:
    """The protocols that have a table: the lists, then one gallery after another, each by ascending N.

    Args:
        by_rankers: protocols with a ranker's figures.
        by_any: protocols with the first stage's or a ranker's figures.
    """
    ranked = set(by_rankers)
    re_ranked = {first_stage_protocol(protocol) for protocol in ranked if reranking_depth(protocol)}
    # A whole gallery has a table of its own only where no top N of it is re-ranked, or a ranker ranks all of it.
    shown = {protocol for protocol in by_any if protocol in ranked or protocol not in re_ranked}
    return sorted(shown, key=_protocol_sort_key)


def _protocol_sort_key(protocol: str) -> tuple[bool, bool, str, int]:
    gallery = first_stage_protocol(protocol)
    # Lists first, then the full gallery, then the other galleries by name; each by ascending N.
    return protocol != "lists", gallery != "gallery", gallery, reranking_depth(protocol)
