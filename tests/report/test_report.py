"""The stage and what its files hold."""

import csv
import dataclasses
import html
import io
import json
import math
import re
import shutil
from importlib import resources

import pytest
from changed_stages import accept_changes

from xmrank.pages.wording import METRICS
from xmrank.report.inputs import TrialRecord, open_inputs
from xmrank.report.kept_tables import read_kept_tables
from xmrank.report.latency_table import read_latency
from xmrank.report.learning_curves import draw_learning_curves
from xmrank.report.result_tables import ResultTable, TableCell, TableRow
from xmrank.report.stage import report
from xmrank.report.terminal import print_tables
from xmrank.report.writing import make_report
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import write_json
from xmrank.runtime.manifest import read_manifest

from .synthetic import World, make_run, read_text, rewrite_manifest

SMALL = World(images=24, seeds=(0,), losses=("ranknet",), epochs=3)


def test_files_and_manifest(made):
    assert set(made.manifest.outputs) == {"table.csv", "table.tex", "tables.json"}
    assert made.manifest.counts["tables"] == 4
    assert made.manifest.counts["examples"] == 12
    assert made.manifest.counts["pictures_missing"] == 0
    stages = {"embeddings": "embed", "rankers": "train", "evaluation": "evaluate"}
    assert made.manifest.inputs == {
        name: read_manifest(getattr(made.config, name), stage).fingerprint for name, stage in stages.items()
    }


def test_the_figures_are_the_same_everywhere(made):
    lines = csv.DictReader(io.StringIO(made.csv))
    keys = {"protocol": "top-20", "direction": "t2i", "method": "listnet", "metric": "hit@5"}
    (line,) = [line for line in lines if keys.items() <= line.items()]
    mean, spread = f"{float(line['mean_percent']):.1f}", f"{float(line['std_percent']):.1f}"
    section = made.markdown.split("### Full gallery, top 20 re-ranked: text → image")[1]
    row = next(text for text in section.splitlines() if text.startswith("| ListNet"))
    assert f"{mean} ± {spread}" in row.replace("*", "")
    table = made.page.split('aria-label="Full gallery, top 20 re-ranked: text → image"')[1].split("</table>")[0]
    assert re.search(rf">{mean}</(strong|span)>\s*<span class=\"spread\">± {spread}</span>", table)
    assert f"{mean}±{spread}" in made.printed


def test_page_has_all_parts(made):
    for part in ("What was run", "Results", "Learning curves", "Example queries", "Beside the paper’s Table 2"):
        assert f"<h2>{part}" in made.page
    assert made.page.count("<caption>") == 4 + 4 + 2 + 2 + 1 + 1  # results, pairs, kept epochs, paper, counts, latency
    assert "Not comparable" in made.page
    assert "29.46" in made.page
    assert "<dd>candidate lists: 80 i2t and 80 t2i; full gallery: 80 i2t and 80 t2i</dd>" in made.page
    assert "<dd>i2t 21, t2i 21</dd>" in made.page
    assert "40 random candidates per query, the 20 most similar kept" in made.page
    assert made.page.count("<article") == 12
    assert "✓ relevant" in made.page
    assert made.page.count('<svg role="img"') == 4 + 2 * (1 + 4) + 4 + 4  # gains, learning, recall over k, seeds
    assert 'lang="en"' in made.page
    assert "scene900" in made.page


def test_several_depths_have_a_section_with_charts_and_tables(tmp_path):
    config = make_run(tmp_path, dataclasses.replace(SMALL, depths=(5, 20)))
    report(config)
    page, markdown = read_text(config, "report.html"), read_text(config, "report.md")
    section = page.split('<section id="reranking-depth">')[1].split("</section>")[0]
    assert section.count("<svg") == section.count("<table") == 2 * 2  # hit@1 and recall@10, two directions
    assert section.count(">Best possible</th>") == 2 * 2
    assert "### hit@1, full gallery, image → text" in markdown
    assert len(re.findall(r"^\| Best possible ", markdown, re.MULTILINE)) == 2 * 2 + 2 * 2
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))


def test_the_latency_by_depth_is_a_table(made):
    section = made.page.split('<section id="latency">')[1].split("</section>")[0]
    cells = re.findall(r'<td class="figure">([^<]*)</td>', section)
    assert cells == ["0.5", "–", "12", "0.084", "–", "3.2", "0.62", "2", "–", "0.1", "0.5", "–"]
    assert re.findall(r"N = \d+", section) == ["N = 10", "N = 40", "N = 200"]
    assert "Milliseconds for each query, context_aware on one CPU core" in section
    assert "| image → text, in a batch of 32 | 0.084 | – | 3.2 |" in made.markdown


@pytest.mark.parametrize("depths", [5, [5], [{"direction": "i2t"}], "null", "NaN"])
def test_times_of_another_form_are_refused(tmp_path, depths):
    path = tmp_path / "timing.json"
    good = {"direction": "i2t", "ranker": "linear", "device": "cuda", "candidates": 10, "queries": 32, "batched_ms": 1}
    value = [{**good, "alone_ms": math.nan if depths == "NaN" else None}] if depths in ("null", "NaN") else depths
    path.write_text(json.dumps({"depths": value}))
    with pytest.raises(DataError, match=r"timing\.json: expected depths with direction, ranker, device, candidates, "):
        read_latency(path)


def test_an_evaluation_without_times_has_no_latency(tmp_path):
    assert read_latency(tmp_path / "timing.json") is None
    (tmp_path / "timing.json").write_text('{"rows": []}')
    assert read_latency(tmp_path / "timing.json") is None


def test_page_needs_nothing_else(made):
    assert not re.search(r'(src|href)="(?!data:|#)', made.page)
    # One script, the package's own, which makes no request.
    own = (resources.files("xmrank.pages") / "templates" / "page.js").read_text()
    assert made.page.count("<script") == 1 and f"<script>{own}</script>" in made.page
    assert not re.search(r"fetch|XMLHttpRequest|import|sendBeacon|eval", own)
    assert not re.search(r"url\((?!#)|@import", made.page)


def test_ids_are_unique(made):
    ids = re.findall(r'\bid="([^"]*)"', made.page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"', made.page)) <= set(ids)


def test_examples_are_half_helped_half_hurt_in_both_directions(made):
    kinds = re.findall(r'<article class="example (\w+) (\S+)"', made.page)
    assert sorted(kinds) == sorted(
        [(kind, direction) for kind in ("helped", "hurt") for direction in ("i2t", "t2i")] * 3
    )
    assert "NeuralNDCG, seed" in made.page


def test_markdown_has_the_summary_and_the_reading(made):
    assert made.markdown.startswith("# Ranking losses on made-up scenes\n")
    assert "of 16 comparisons" in made.markdown
    assert "16.16 is 80.8 / 5" in made.markdown
    assert "embed left out 1" in made.markdown


def test_terminal_output_is_whole_and_ends_with_the_files(made):
    lines = made.printed.splitlines()
    assert [line.split(":")[0] for line in lines[-4:]] == ["page", "Markdown", "CSV", "LaTeX"]
    assert "…" not in made.printed
    assert max(len(line) for line in lines[:-4]) <= 100
    assert sum(line.startswith("NeuralNDCG") for line in lines) >= 4


def test_a_table_too_wide_is_printed_in_halves(capsys):
    loss = "lambda_loss_with_a_name_that_leaves_no_room"
    cells = {metric: TableCell((1.0, 0.9), 400, 0, 0.5) for metric in METRICS}
    print_tables([ResultTable("lists", "i2t", (TableRow(loss, "", loss, cells),))])
    printed = capsys.readouterr().out
    assert printed.count(loss) == 2
    assert printed.count("95.0±7.1") == len(METRICS)
    assert max(map(len, printed.splitlines())) <= 100


def test_equal_inputs_give_equal_bytes(tmp_path):
    config = make_run(tmp_path, SMALL)
    first = report(config)
    again = report(dataclasses.replace(config, output=tmp_path / "again"))
    assert again.outputs == first.outputs
    assert again.fingerprint == first.fingerprint


def test_a_finished_report_is_only_printed(tmp_path, capsys, monkeypatch):
    config = make_run(tmp_path, SMALL)
    first = report(config)
    stamp = (config.output / "report.html").stat().st_mtime_ns
    printed = capsys.readouterr().out
    monkeypatch.setattr("xmrank.report.writing.make_report", lambda *_: pytest.fail("nothing was to be computed"))
    assert report(config) == first
    assert (config.output / "report.html").stat().st_mtime_ns == stamp
    assert "RankNet" in printed
    assert capsys.readouterr().out == printed


def test_the_tables_are_kept_as_they_were(tmp_path):
    config = make_run(tmp_path, dataclasses.replace(SMALL, refined=True))
    inputs = open_inputs(config)
    manifest, tables = make_report(config, inputs)
    assert any(cell.refined_test for table in tables for cell in table.all_cells())
    assert all(table.ceiling for table in tables if table.protocol != "lists")
    assert read_kept_tables(config.output / "tables.json") == tables
    # A report of an earlier version has none: its tables are computed.
    (config.output / "tables.json").unlink()
    left = {name: entry for name, entry in manifest.outputs.items() if name != "tables.json"}
    write_json(config.output / "manifest.json", vars(dataclasses.replace(manifest, outputs=left).with_fingerprint()))
    assert make_report(config, inputs)[1] == tables


def test_one_seed_has_no_deviation(tmp_path):
    config = make_run(tmp_path, SMALL)
    report(config)
    tables = read_text(config, "report.md").split("## Results")[1].split("## Best epochs")[0]
    assert "±" not in tables.split("###", 1)[1]
    assert "the one seed that was run" in read_text(config, "report.md")


def test_captions_and_ids_are_data_not_markup(tmp_path):
    evil = '<script>alert("x")</script> & <b>bold</b> | `code`'
    config = make_run(tmp_path, dataclasses.replace(SMALL, first_caption=evil, images=6))
    report(dataclasses.replace(config, title="<script>title</script>", examples=40))
    page, markdown = read_text(config, "report.html"), read_text(config, "report.md")
    assert page.count("<script") == 1  # the page's own
    assert "<b>" not in page
    assert "&lt;script&gt;alert(" in page
    assert "<script" not in markdown
    assert "&lt;script&gt;alert(" in markdown


def test_pictures_outside_of_the_image_folder_are_not_shown(tmp_path):
    config = make_run(tmp_path, dataclasses.replace(SMALL, folder="../elsewhere"))
    manifest = report(config)
    assert len(list((tmp_path / "elsewhere").iterdir())) == SMALL.images
    assert manifest.counts["pictures"] == 0
    assert manifest.left_out[0]["reason"].endswith(".jpg: lies outside of the image folder")
    assert "lies outside of the image folder" in read_text(config, "report.html")


def test_remote_pictures_are_fetched_only_when_a_flag_says_so(tmp_path, picture_server):
    config = make_run(tmp_path, dataclasses.replace(SMALL, images_root=picture_server.address))
    manifest = report(config)
    assert picture_server.requested == []
    assert manifest.counts["pictures"] == 0
    reason = "the images are remote, and are fetched only with --remote-images"
    assert {entry["reason"] for entry in manifest.left_out} == {reason}
    assert reason in read_text(config, "report.html")
    with pytest.raises(DataError, match="remote_images is null there, true here"):
        report(dataclasses.replace(config, remote_images=True))
    assert report(dataclasses.replace(config, remote_images=True, overwrite=True)).counts["pictures"] > 0
    assert picture_server.requested


def test_pictures_that_are_gone_are_named(tmp_path):
    config = make_run(tmp_path, SMALL)
    shutil.rmtree(tmp_path / "images")
    manifest = report(config)
    assert manifest.counts["pictures"] == 0
    assert manifest.counts["pictures_missing"] == len(manifest.left_out) > 0
    assert manifest.left_out[0]["reason"].endswith("the file is gone")
    page = read_text(config, "report.html")
    assert "pictures cannot be shown" in page
    assert "no picture" in page
    assert "<img" not in page


def test_broken_picture_leaves_the_others(tmp_path):
    config = make_run(tmp_path, SMALL)
    paths = sorted((tmp_path / "images").rglob("*.jpg"))
    for path in paths[::2]:
        path.write_bytes(path.read_bytes()[:200])
    manifest = report(config)
    assert manifest.counts["pictures"] > 0
    assert {entry["reason"].split(": ")[1] for entry in manifest.left_out} == {"not a readable picture"}


def test_imported_embeddings_have_no_pictures_and_no_words(tmp_path):
    config = make_run(tmp_path, dataclasses.replace(SMALL, pictures=False, texts=False))
    manifest = report(config)
    assert manifest.left_out == []
    page = read_text(config, "report.html")
    assert "imported embeddings" in page
    assert "imported without images" in page
    assert "scene001#" in page


def test_no_examples_on_request(tmp_path):
    config = make_run(tmp_path, SMALL)
    assert report(dataclasses.replace(config, examples=0)).counts["examples"] == 0
    assert "Example queries" not in read_text(config, "report.html")


def test_without_histories_the_best_on_the_table_is_shown(tmp_path):
    config = make_run(tmp_path, SMALL)
    shutil.rmtree(tmp_path / "rankers" / "trials")
    rewrite_manifest(config.evaluation, inputs={"rankers": accept_changes(config.rankers).fingerprint})
    report(config)
    page = read_text(config, "report.html")
    assert "Learning curves" not in page
    assert "RankNet, seed 0, the best by hit@1" in page


def test_stages_that_do_not_belong_together_are_refused(tmp_path):
    config = make_run(tmp_path / "a", SMALL)
    other = make_run(tmp_path / "b", dataclasses.replace(SMALL, epochs=4))
    with pytest.raises(DataError, match="was made from other rankers than --rankers"):
        report(dataclasses.replace(config, rankers=other.rankers))


def test_an_unfinished_stage_is_named(tmp_path):
    config = make_run(tmp_path, SMALL)
    (config.evaluation / "manifest.json").unlink()
    with pytest.raises(DataError, match="no finished output of the stage evaluate"):
        report(config)


def test_a_history_that_lacks_a_key_is_named(tmp_path):
    config = make_run(tmp_path, SMALL)
    path = config.rankers / "trials" / "ranknet-i2t-seed0" / "history.json"
    path.write_text(json.dumps({"loss": "ranknet"}))
    rewrite_manifest(config.evaluation, inputs={"rankers": accept_changes(config.rankers).fingerprint})
    with pytest.raises(DataError, match=r"history\.json: expected loss, direction, seed"):
        report(config)


def test_run_card_does_without_what_evaluate_does_not_say(tmp_path):
    config = make_run(tmp_path, SMALL)
    rewrite_manifest(config.evaluation, settings={"lists_config": None, "tie_rule": "", "candidates_per_list": ""})
    report(config)
    assert "<dt>Ties</dt>" not in read_text(config, "report.html")


def test_run_card_says_how_many_lists_give_their_answer_away(tmp_path):
    config = make_run(tmp_path, SMALL)
    rewrite_manifest(config.evaluation, settings={"positives_last": {"i2t_test": 0.0372, "t2i_test": 0.04}})
    report(config)
    assert "in 3.7 % of the i2t and 4.0 % of the t2i lists the first stage ranks" in read_text(config, "report.md")


def test_run_card_describes_the_refined_similarity_and_the_sampled_lists(tmp_path):
    config = make_run(tmp_path, SMALL)
    refine = {"members": 3, "width": 256, "epochs": 5, "average": 0.5, "hubness_weight": 0.5}
    refine |= {"memory_weight": 0.3, "learn_fusion": True}
    settings = {"refine": refine, "sampling": "random-hard", "sampling_positives": "retrieved"}
    rankers = rewrite_manifest(config.rankers, config=settings)
    rewrite_manifest(config.evaluation, inputs={"rankers": rankers.fingerprint})
    report(config)
    text = read_text(config, "report.md")
    assert (
        "3 pairs of adapters, width 256, 5 epochs, hubness 0.5, memory 0.3, mean of the last 50 % of the steps, "
        "weights learned |"
    ) in text
    assert "lists drawn anew every epoch (random-hard, positives retrieved)" in text


def test_the_result_comes_first_and_what_was_run_after_it(made):
    parts = ['class="headline"', 'class="gains"', 'id="results"', 'id="run"', 'id="learning-curves"']
    assert sorted(parts, key=made.page.index) == parts


def test_colour_is_for_what_is_significant(made):
    cells = re.findall(
        r'<span class="difference ([a-z]*)"[^>]*>(.*?)</span>', made.page.replace("</span></span>", "</span>")
    )
    marks = {"up": "▲", "down": "▼", "": ""}
    assert {colour for colour, _ in cells} == set(marks)
    assert [text for colour, text in cells if re.sub(r"[^▲▼]", "", text) != marks[colour]] == []


def test_equal_columns_are_shown_once(made):
    one_right, several = (made.page.split(f'aria-label="{title}"')[1].split("</table>")[0] for title in TITLES)
    assert "hit@k = recall@k" in one_right and "NDCG@10" in one_right and ">recall@k<" not in one_right
    assert ">hit@k<" in several and ">recall@k<" in several
    assert "| method | hit = recall@1 | hit = recall@5 | hit = recall@10 | MRR | NDCG@10 |" in made.markdown
    assert "| method | hit@1 | hit@5 | hit@10 | recall@1 |" in made.markdown


TITLES = ("Candidate lists: image → text", "Full gallery, top 20 re-ranked: image → text")
"""Of a table with one right answer for each query, and of one with five."""


def test_learning_curves_are_differences_to_the_first_stage_on_the_same_lists():
    epochs = [{"epoch": 0, "validation_mean": 0.40}, {"epoch": 1, "validation_mean": 0.46}]
    trials = [TrialRecord("ranknet", "t2i", 0, 1, epochs)]
    (curves,) = draw_learning_curves(trials, {"t2i": 0.43, "i2t": 0.9})
    assert "points over the first stage's 43.0 %" in curves.mean.description
    assert "RankNet +3.0 (epoch 1)" in curves.mean.description
    assert "minus the first stage’s 43.0\N{NO-BREAK SPACE}% there" in curves.caption
    # What the pointer shows: the same differences, at each epoch.
    stops = json.loads(html.unescape(re.search('data-hover="([^"]*)"', curves.mean.svg)[1]))
    assert [(stop["label"], stop["lines"][0][:2]) for stop in stops] == [
        ("epoch 0", ["RankNet", "−3.0"]),
        ("epoch 1", ["RankNet", "+3.0"]),
    ]
    assert 0 < stops[0]["at"] < stops[1]["at"] < 1
    # Rankers of earlier versions do not say how the first stage did there.
    (curves,) = draw_learning_curves(trials, {})
    assert "RankNet 46.0 (epoch 1)" in curves.mean.description and "first stage" not in curves.mean.svg


def test_an_epoch_before_the_first_step_has_its_own_figures():
    epochs = [{"epoch": 0, "validation_hit@1": 0.4}, {"epoch": 1, "validation_hit@1": 0.3, "train_loss": 2.0}]
    epochs = [{**epoch, "validation_mean": 0.5} for epoch in epochs]
    trial = TrialRecord("ranknet", "t2i", 0, 0, epochs)
    assert trial.epoch_numbers == [0, 1] and trial.value_at_best("validation_hit@1") == 0.4
    (curves,) = draw_learning_curves([trial], {})
    assert curves.mean is not None and curves.best[0].epochs == (0,)


def test_curves_do_without_figures_that_are_missing():
    epochs = [{"epoch": 1, "validation_loss": None}, {"epoch": 2, "validation_loss": 0.5}]
    (curves,) = draw_learning_curves([TrialRecord("ranknet", "t2i", 0, 2, epochs)], {})
    assert curves.mean is None
    assert len(curves.losses) == 1


def test_what_only_the_refinement_did_is_no_gain_of_a_loss(tmp_path):
    world = World(images=12, losses=("listnet", "ranknet"), epochs=2, pictures=False, refined=True)
    config = make_run(tmp_path, world)
    for path in (config.rankers / "trials").glob("listnet-*/history.json"):
        write_json(path, {**json.loads(path.read_text()), "best_epoch": 0})
    rewrite_manifest(config.evaluation, inputs={"rankers": accept_changes(config.rankers).fingerprint})
    report(dataclasses.replace(config, draws=100, examples=0))
    markdown, page, table = (read_text(config, name) for name in ("report.md", "report.html", "table.csv"))
    assert "| ListNet (kept its start) |" in markdown and "| RankNet |" in markdown
    assert "| Refined first stage |" in markdown and "; refined " in markdown
    assert "4 comparisons are not counted: the rankers kept their start" in markdown.splitlines()[4]
    assert "Against the refined first stage, which has no ranking loss" in markdown.splitlines()[4]
    for note in ("The refined first stage is the similarity", "Kept its start”: no epoch was better"):
        assert note in markdown and note in page
    assert "ListNet (kept its start)" in page and ">refined " in page
    assert table.splitlines()[0].endswith("significant_to_refined,seeds_that_kept_their_start")
