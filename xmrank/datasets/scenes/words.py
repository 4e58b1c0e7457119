"""The words of the captions of `scenes`: synonyms and sentence forms."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from xmrank.datasets.scenes.layout import LABEL_NAMES

if TYPE_CHECKING:
    from xmrank.datasets.scenes.scene_captions import Claim, Mention

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SYNONYMS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc", "disk"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star", "five-pointed star"),
    "ring": ("ring", "hoop"),
    "cross": ("cross", "plus sign"),
    "diamond": ("diamond", "rhombus"),
    "heart": ("heart",),
    "crescent": ("crescent", "moon"),
    "arrow": ("arrow",),
    "red": ("red", "red", "crimson", "scarlet"),
    "orange": ("orange", "orange", "tangerine"),
    "yellow": ("yellow", "yellow", "golden"),
    "green": ("green", "green", "emerald"),
    "blue": ("blue", "blue", "azure"),
    "purple": ("purple", "purple", "violet"),
    "pink": ("pink", "pink", "rosy"),
    "white": ("white", "white", "snowy"),
    "small": ("small", "tiny", "little"),
    "large": ("large", "big", "huge"),
    "solid": ("solid", "plain"),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted"),
    "checkered": ("checkered", "chequered"),
    "black": ("black", "jet black"),
    "grey": ("grey", "gray"),
    "cream": ("cream", "beige"),
    "navy": ("navy", "dark blue"),
    "brown": ("brown", "chocolate"),
    "turquoise": ("turquoise", "teal"),
    "plain": ("flat", "even"),
    "shaded": ("shaded", "fading"),
    "banded": ("banded", "lined"),
    "tiled": ("tiled", "chessboard"),
    "grainy": ("grainy", "noisy"),
}
"""Word of a scene → the words captions use for it; repeated where it is the usual one."""

CELLS = (
    ("in the top left corner", "at the top in the middle", "in the top right corner"),
    ("in the middle on the left", "in the centre", "in the middle on the right"),
    ("in the bottom left corner", "at the bottom in the middle", "in the bottom right corner"),
)
_OTHER_CELLS = (
    ("in the upper left", "at the top centre", "in the upper right"),
    ("halfway down the left side", "in the very middle", "halfway down the right side"),
    ("in the lower left", "at the bottom centre", "in the lower right"),
)
_RELATIONS: dict[str, tuple[str, ...]] = {
    "left": ("to the left of", "left of", "on the left side of"),
    "right": ("to the right of", "right of", "on the right side of"),
    "above": ("above", "over", "higher up than"),
    "below": ("below", "under", "underneath"),
    "beside": ("next to", "beside", "right by"),
}
_COUNTS = {2: ("two", "a pair of"), 3: ("three", "exactly three"), 4: ("four", "a group of four")}

_ONE = (
    "{a}", "there is {a}", "a picture with {a}", "i can see {a}", "an image showing {a}", "look, {a}",
    "here we have {a}", "somewhere there is {a}", "this one contains {a}", "{a} can be seen",
)  # fmt: skip
_CELL = (
    "{a} {cell}", "{cell} there is {a}", "{cell}, {a}", "there is {a} {cell}", "{a} sits {cell}",
    "you will find {a} {cell}", "a scene with {a} {cell}", "{a} has been put {cell}",
)  # fmt: skip
_PAIR = (
    "{a} and {b}", "{a} together with {b}", "there is {a}, and also {b}", "a picture of {a} and {b}",
    "both {a} and {b}", "besides {a} you can see {b}", "{a} as well as {b}", "this shows {a} with {b}",
)  # fmt: skip
_RELATION = (
    "{a} {relation} {b}", "{a} is {relation} {b}", "there is {a} {relation} {b}", "{relation} {b} there is {a}",
    "{relation} {b} sits {a}", "a picture of {a} {relation} {b}", "someone drew {a} {relation} {b}",
    "{relation} {b} you can see {a}",
)  # fmt: skip
_COUNT = (
    "{count} things, one of them is {a}", "{count} objects including {a}", "there are {count} items, among them {a}",
    "{a} is one of {count} objects", "{a} in a picture of {count} things",
)  # fmt: skip
_BACKGROUND = (
    "{sentence} on {article} {background} background", "{sentence}, against {background}",
    "on {background}, {sentence}", "{sentence}; the background is {background}", "{background} background: {sentence}",
)  # fmt: skip


def word_claim(claim: Claim, rng: random.Random) -> str:
    """A sentence that says what the claim says, and nothing else."""
    forms, parts = _choose_forms(claim, rng)
    # The order of the draws is part of the data set: the form is drawn after the words that go into it.
    sentence = rng.choice(forms).format(**parts)
    if claim.background is not None:
        background = " ".join(rng.choice(SYNONYMS[said]) for said in (claim.pattern, claim.background) if said)
        sentence = rng.choice(_BACKGROUND).format(
            sentence=sentence, background=background, article=_choose_article(background)
        )
    # Two captions in three end with a full stop.
    return sentence[0].upper() + sentence[1:] + rng.choice((".", ".", ""))


def _choose_forms(claim: Claim, rng: random.Random) -> tuple[tuple[str, ...], dict[str, str]]:
    """The sentence forms that a claim can take, and the words that go into them."""
    phrases = [_word_mention(mention, rng) for mention in claim.mentions]
    cell = ""
    if row_column := claim.mentions[0].cell:
        cell = rng.choice((CELLS, _OTHER_CELLS))[row_column[0]][row_column[1]]
    # A single object has forms of its own for where it is; elsewhere the cell follows the object.
    if cell and len(phrases) == 1 and claim.count is None:
        return _CELL, {"a": phrases[0], "cell": cell}
    parts = {"a": f"{phrases[0]} {cell}".strip(), "b": phrases[-1]}
    if claim.relation is not None:
        return _RELATION, parts | {"relation": rng.choice(_RELATIONS[claim.relation])}
    if claim.count is not None:
        return _COUNT, parts | {"count": rng.choice(_COUNTS[claim.count])}
    return (_ONE if len(phrases) == 1 else _PAIR), parts


def _word_mention(mention: Mention, rng: random.Random) -> str:
    """A noun with its adjectives and article, like "a small crimson star", or "a star in blue"."""
    before = [rng.choice(SYNONYMS[said]) for said in (mention.size, mention.texture) if said]
    after = ""
    if mention.colour:
        if rng.random() < 0.15:
            after = f" in {mention.colour}"  # the usual word only: nobody says "a star in golden"
        else:
            before.append(rng.choice(SYNONYMS[mention.colour]))
    phrase = " ".join([*before, _choose_noun(mention, rng)])
    return f"{_choose_article(phrase)} {phrase}{after}"


def _choose_noun(mention: Mention, rng: random.Random) -> str:
    if mention.label is None:
        return rng.choice(("digit", "number", "numeral") if mention.is_digit else ("shape", "form"))
    if not mention.is_digit:
        return rng.choice(SYNONYMS[LABEL_NAMES[mention.label]])
    figure = rng.choice((str(mention.label), DIGIT_WORDS[mention.label]))
    return rng.choice(("{}", "{}", "digit {}", "number {}", "handwritten {}", "figure {}")).format(figure)


def _choose_article(phrase: str) -> str:
    return "an" if phrase[0] in "aeiou8" and not phrase.startswith("one") else "a"
