"""Alt texts of web-like pictures: terse, noisy, about a part of the picture, and one in ten about another picture."""

import random

from xmrank.datasets.scenes.layout import LABEL_NAMES, random_numbers
from xmrank.datasets.scenes.web_layout import WebObject, WebPicture, compose_from_key
from xmrank.datasets.scenes.words import DIGIT_WORDS, SYNONYMS

TEXTS_PER_PICTURE = 5
MISMATCHED = 0.1
"""Probability that an alt text belongs to another picture."""

_EMPTY = ("image", "photo", "untitled", "click to enlarge", "img_{n}", "dsc{n}.jpg", "photo of the day", "banner {n}")
_TERSE = (
    "{a}", "{a}", "{a} {b}", "{a}, {b}", "{a} and {b}", "{a} & {b}", "{a} + {b}", "{all}", "{count} things: {a}",
    "{a} on {background}", "{a}, {background} background", "{a} {b} {background}", "{a} {b} {background} backdrop",
    "{a}, {b} on {background}", "{a} and {b}, {background} background", "{background}: {a}, {b}",
)  # fmt: skip
_SENTENCES = (
    "a picture of {a}", "there is {a} and {b}", "{a} next to {b}", "{a} {relation} {b}", "{a} {relation} {b}",
    "{a} {position}", "{position}: {a}", "this shows {a} {position}", "i drew {a} with {b} on {background}",
    "look at {a} and {b}, the background is {background}", "an image of {a} on a {background} background",
    "{count} objects, one is {a}", "{a} {relation} {b} on {background}", "{a} and {b} against {background}",
)  # fmt: skip
_AROUND = (
    "{text} icon", "{text} clipart", "{text} stock photo", "free {text}", "buy {text} online", "{text} {n} px",
    "img_{n} {text}", "{text}.jpg", "{text} ${p}", "{text} {p} eur", "{text} | page {p}", "new! {text}", "re: {text}",
    "{text} (detail)", "{text} - shop", "best {text} ever",
)  # fmt: skip
_PARTS = (
    "{a}", "{a}", "{a} and {b}", "{a}, {b}", "{a} {relation} {b}", "{a} is {relation} {b}", "{relation} {b} sits {a}",
    "{a} {position}", "{position} you see {a}", "background {background}", "the background is {background}",
    "on {background}", "against {background}", "{background} background", "all of it on {background}",
)  # fmt: skip
_JOINTS = (", ", "; ", ". ", " and ", " with ", " and also ", ", here ", " - ", " as well as ", " together with ")
_CHATTER = (
    "a", "a", "a", "an", "the", "the", "in", "on", "of", "is", "it", "this", "here", "we", "you", "can", "see", "have",
    "has", "been", "my", "for", "by", "as", "well", "also", "both", "very", "one", "them", "will", "find", "be", "are",
    "some", "put", "up", "down", "side", "than", "i", "made", "today", "click", "photo", "shape", "number", "form",
    "look", "sits", "seen", "together", "scene", "corner", "page", "blog", "more", "how", "to", "with", "and",
)  # fmt: skip
"""What people write around it; a chatty alt text has such words in front of, between and after the others."""
_COUNTS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
_PATTERNS = {"plain": "plain", "gradient": "shaded", "grainy": "grainy", "banded": "banded", "tiled": "tiled"}
"""Backdrop → what it is called; clouds have no name."""
_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")


def write_alt_texts(picture: WebPicture) -> tuple[str, ...]:
    """Five alt texts of the picture, one in ten of another one; they depend on the picture alone."""
    rng = random_numbers(f"{picture.key}/alt texts")
    texts = []
    for index in range(TEXTS_PER_PICTURE):
        # A picture that is in no set: which one is mixed up does not depend on the size of the set.
        other = rng.random() < MISMATCHED
        texts.append(_write_text(compose_from_key(f"{picture.key}/mixed up/{index}") if other else picture, rng))
    return tuple(texts)


def _write_text(picture: WebPicture, rng: random.Random) -> str:
    numbers = {"n": rng.randint(100, 9999), "p": rng.randint(1, 99)}
    style = rng.choices(("empty", "terse", "sentence", "chatty", "long"), (3, 37, 15, 15, 30))[0]
    if style == "empty":
        return rng.choice(_EMPTY).format(**numbers)
    if style == "long":
        return _write_long_text(picture, rng)
    text = _fill_form(rng.choice(_TERSE if style == "terse" else _SENTENCES), picture, rng)
    if style == "chatty":
        return _add_chatter(text, rng)
    if rng.random() < 0.3:
        text = rng.choice(_AROUND).format(text=text, **numbers)
    # A file name in place of a text.
    return text.replace(" ", "-") if rng.random() < 0.06 else text


def _write_long_text(picture: WebPicture, rng: random.Random) -> str:
    """Two or three things that are said of a picture, one after the other, with chatter around some of them."""
    parts = [_fill_form(rng.choice(_PARTS), picture, rng) for _ in range(rng.choice((2, 2, 3)))]
    text = _add_articles(parts[0], rng)
    for part in parts[1:]:
        text += rng.choice(_JOINTS) + _add_articles(part, rng)
    if rng.random() < 0.5:
        text = " ".join([*rng.choices(_CHATTER, k=rng.randint(1, 3)), text])
    return text + rng.choice(("", ".", "!"))


def _add_articles(text: str, rng: random.Random) -> str:
    """The text with "a" or "the" in front of some of its words."""
    return " ".join(f"{rng.choice(('a', 'a', 'the'))} {word}" if rng.random() < 0.2 else word for word in text.split())


def _add_chatter(text: str, rng: random.Random) -> str:
    """The text with up to eight words of chatter in front, articles and the like between its words, and a few after."""
    before = rng.choices(_CHATTER, k=rng.randint(0, 8))
    between: list[str] = []
    for word in text.split():
        # Not always: what belongs together mostly stays together.
        between += [rng.choice(_CHATTER), word] if rng.random() < 0.25 else [word]
    return " ".join([*before, *between, *rng.choices(_CHATTER, k=rng.randint(0, 3))])


def _fill_form(form: str, picture: WebPicture, rng: random.Random) -> str:
    first, second = rng.choices(picture.objects, k=2)
    if len(picture.objects) > 1:
        first, second = rng.sample(picture.objects, 2)
    elif "{b}" in form:
        # There is no second object to speak of.
        form = "{a}"
    return form.format(
        a=_name_object(first, rng, picture),
        b=_name_object(second, rng, picture),
        all=" ".join(_choose_web_noun(item, rng) for item in picture.objects),
        background=_name_background(picture, rng),
        count=_COUNTS[len(picture.objects)],
        position=_name_position(first, picture),
        relation=_name_relation(first, second, rng),
    )


def _name_object(item: WebObject, rng: random.Random, picture: WebPicture) -> str:
    """A noun, most often with its colour, sometimes with its size or fill: "blue star", "star blue", "star"."""
    words = [_choose_web_noun(item, rng)]
    if rng.random() < 0.9:
        words.insert(rng.choice((0, 0, 0, 1)), rng.choice(SYNONYMS[item.colour]))
    if item.fill in ("striped", "dotted", "checkered") and rng.random() < 0.4:
        words.insert(0, rng.choice(SYNONYMS[item.fill]))
    fraction = item.diameter / min(picture.width, picture.height)
    if rng.random() < 0.25 and not 0.24 < fraction < 0.45:
        words.insert(0, rng.choice(SYNONYMS["small" if fraction < 0.3 else "large"]))
    return " ".join(words)


def _choose_web_noun(item: WebObject, rng: random.Random) -> str:
    if item.label >= 10:
        return rng.choice(SYNONYMS[LABEL_NAMES[item.label]])
    figure = rng.choice((str(item.label), DIGIT_WORDS[item.label]))
    return rng.choice(("{}", "{}", "number {}", "digit {}", "no. {}", "handwritten {}", "figure {}")).format(figure)


def _name_background(picture: WebPicture, rng: random.Random) -> str:
    """Its colour, often with its pattern in front: "striped grey", "grey"."""
    pattern = _PATTERNS.get(picture.backdrop)
    words = [rng.choice(SYNONYMS[pattern])] if pattern and rng.random() < 0.6 else []
    return " ".join([*words, rng.choice(SYNONYMS[picture.background])])


def _name_position(item: WebObject, picture: WebPicture) -> str:
    row = _ROWS[min(2, 3 * item.y // picture.height)]
    return f"{row} {_COLUMNS[min(2, 3 * item.x // picture.width)]}"


def _name_relation(one: WebObject, other: WebObject, rng: random.Random) -> str:
    """The direction that is the plainer one of the two."""
    across, down = other.x - one.x, other.y - one.y
    if abs(across) >= abs(down):
        return rng.choice(("left of", "to the left of") if across > 0 else ("right of", "to the right of"))
    return rng.choice(("above", "over") if down > 0 else ("below", "under"))
