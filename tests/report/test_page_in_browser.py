"""The page in a real browser: it loads whole, complains of nothing and fits a phone."""

import pytest
from browser import find_browser, open_browser

from xmrank.report.stage import report

from .synthetic import World, make_run

BROWSER = find_browser()
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome is installed")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with open_browser(BROWSER, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_page_opens(page, made, width, dark):
    url = (made.config.output / "report.html").as_uri()
    page.trouble.clear()
    page.requests.clear()
    page.open(url, width, dark=dark)
    assert page.trouble == []
    assert page.requests == [url]
    assert page.value("document.querySelectorAll('#results table').length") == 4
    assert (
        page.value("document.querySelectorAll('#results tbody tr').length") == 4 * (1 + 4) + 2
    )  # the ceilings of the top N
    assert page.value("document.querySelector('#results tbody tr').innerText").startswith("First stage")
    assert page.value("document.images.length") == made.manifest.counts["pictures"] > 0
    assert page.value("[...document.images].every(i => i.complete && i.naturalWidth > 0 && i.alt)")
    assert page.value("document.querySelectorAll('svg path').length") > 20
    # Tables scroll in their own boxes; the page itself does not.
    assert page.value("document.documentElement.scrollWidth") == width
    background = page.value("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 23, 26)" if dark else "rgb(251, 250, 247)")


def test_the_pointer_shows_the_values_of_the_lines_under_it(page, made):
    page.trouble.clear()
    page.open((made.config.output / "report.html").as_uri(), 1280)
    charts = page.value("document.querySelectorAll('svg[data-hover]').length")
    assert charts == 2 + 4  # learning curves, recall over k
    move = """(() => {
        const chart = document.querySelector('#learning-curves svg[data-hover]'), box = chart.getBoundingClientRect();
        const stop = JSON.parse(chart.dataset.hover)[2];
        const at = {clientX: box.left + stop.at * box.width, clientY: box.top + 20};
        chart.dispatchEvent(new PointerEvent('pointermove', at));
        return document.querySelector('.tip').innerText;
    })()"""
    heading, *lines = page.value(move).split("\n")
    assert heading == "epoch 3" and [line.split()[0] for line in lines] == [
        "LambdaRank",
        "NeuralNDCG",
        "ListNet",
        "RankNet",
    ]
    assert page.value("document.querySelector('.tip').getBoundingClientRect().right") <= 1280
    page.value("document.querySelector('#learning-curves svg').dispatchEvent(new PointerEvent('pointerleave'))")
    assert page.value("document.querySelector('.tip').hidden")
    assert page.trouble == []


def test_examples_are_searched_and_sorted(page, made):
    page.trouble.clear()
    page.open((made.config.output / "report.html").as_uri(), 390)
    shown = "[...document.querySelectorAll('article.example')].filter(e => e.checkVisibility())"
    assert page.value(f"{shown}.length") == 12
    enter = """(() => {
        const field = document.querySelector('.example-tools %s');
        field.value = %r;
        field.dispatchEvent(new Event('input', {bubbles: true}));
    })()"""
    page.value(enter % ("input", "HELPED scene"))
    assert page.value(f"{shown}.every(e => e.className.includes('helped'))")
    assert 0 < page.value(f"{shown}.length") < 12
    assert page.value("document.querySelector('.example-tools output').value").endswith("of 12 queries")
    page.value(enter % ("input", ""))
    page.value(enter % ("select", "hurt"))
    gains = page.value(f"{shown}.map(e => ['after', 'before'].map(n => +e.dataset[n]).map(r => r ? 1 / r : 0))")
    differences = [after - before for after, before in gains]
    assert differences == sorted(differences) and differences[0] < 0 < differences[-1]
    assert page.trouble == []


def test_no_text_of_the_data_can_run(page, tmp_path):
    world = World(
        images=8, losses=("listnet",), epochs=2, seeds=(0,), first_caption="<script>document.title='run'</script>"
    )
    config = make_run(tmp_path, world)
    report(config)
    page.open((config.output / "report.html").as_uri(), 1280)
    assert page.value("document.title") == config.title
    assert page.value("document.scripts.length") == 1
    page.value("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))")
    assert page.value("window.ran") is None  # the policy allows the page's own script only


def test_text_is_readable_on_its_background(page, made):
    """Contrast of the page's text colours with their background: at least 4.5 (WCAG AA), light and dark."""
    pairs = [
        *((ink, ground) for ink in ("ink", "muted", "up", "down") for ground in ("paper", "surface")),
        *((f"series-{number}", "paper") for number in range(1, 9)),
        *(("accent", "paper"), ("up", "up-wash"), ("ink", "up-wash"), ("ink", "note")),
    ]
    for dark in (False, True):
        page.open((made.config.output / "report.html").as_uri(), 1280, dark=dark)
        style = "getComputedStyle(document.documentElement).getPropertyValue"
        colours = {name: page.value(f"{style}('--{name}')").strip() for name in {n for pair in pairs for n in pair}}
        assert {
            pair: contrast(*(colours[name] for name in pair))
            for pair in pairs
            if contrast(*(colours[n] for n in pair)) < 4.5
        } == {}


def contrast(one, other):
    """The contrast ratio of two colours, as WCAG 2 defines it."""
    low, high = sorted(luminance(colour) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
