"""Figures and the results page from made-up reports."""

import copy
import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from predictions_table import columns, table

from faceattr.labels import AGE, GENDER, RACE, TASKS
from train.__main__ import main
from train.evaluate.cells import Cell
from train.evaluate.corruptions import CORRUPTIONS
from train.evaluate.predictions import read_predictions
from train.evaluate.report import evaluate, read_history
from train.report import plots
from train.report.imbalance import Labels, describe
from train.report.pages import page, page_figures
from train.report.plots_data import data_figures
from train.report.plots_results import card_figures, result_figures
from train.tables import TableError, rounded, write_report

HISTORY = [
    {
        "epoch": epoch,
        "image_size": 24 if epoch < 3 else 32,
        "train_loss": {task.name: 2.0 / epoch for task in TASKS},
        "holdout_loss": {task.name: 2.1 / epoch for task in TASKS},
        "holdout_accuracy": {task.name: 0.5 for task in TASKS},
    }
    for epoch in (1, 2, 3)
]


def robustness_of(weights):
    cells = {task.name: Cell(200, 120).to_dict() for task in TASKS}
    worse = {task.name: Cell(200, 90).to_dict() for task in TASKS}
    return {
        "schema": 1,
        "weights_sha256": weights,
        "dataset": {"rows": 200},
        "clean": cells,
        "corruptions": {
            name: {
                "title": c.title,
                "unit": c.unit,
                "levels": [{"level": level, **worse} for level in c.levels],
            }
            for name, c in CORRUPTIONS.items()
        },
    }


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("figures") / "p.parquet"
    pq.write_table(table(columns(rows=1200)), path)
    found = evaluate(
        read_predictions(path),
        robustness=robustness_of("ab" * 32),
        history=HISTORY,
        draws=20,
    )
    return json.loads(json.dumps(found))


@pytest.fixture(scope="module")
def labels():
    rng = np.random.default_rng(2)
    cells = [(a, g, r) for a in AGE.classes for g in GENDER.classes for r in RACE.classes]
    splits = [
        Labels(name, {cell: int(rng.integers(1, 60)) for cell in cells}, 5)
        for name in ("train", "validation")
    ]
    return {"schema": 1, "splits": rounded(describe(splits))}


def test_every_figure_of_the_reports_chapters_is_there(report, labels):
    numbers = {f"3.{n}" for n in range(2, 8)} | {f"4.{n}" for n in range(1, 5)}
    assert numbers <= set(page_figures(report, labels))


def test_a_figure_is_written_with_alt_text_and_the_same_bytes(report, tmp_path):
    figure = result_figures(report)["4.2"]
    for name in ("one", "two"):
        figure.save(tmp_path / name)
    one, two = (tmp_path / name / "confusion.png" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    with Image.open(one) as image:
        assert image.info["Title"] == figure.alt
        assert image.info["Description"] == f"data {figure.fingerprint}"
        pixels = np.asarray(image.convert("RGB"))
    assert tuple(pixels[0, 0]) == (255, 255, 255)
    assert pixels.min() < 60


def test_a_figures_fingerprint_follows_its_data(report):
    changed = copy.deepcopy(report)
    changed["confusion"]["overall"]["race"]["counts"][0][0] += 1
    before, after = result_figures(report), result_figures(changed)
    assert before["4.2"].fingerprint != after["4.2"].fingerprint
    assert before["reliability"].fingerprint == after["reliability"].fingerprint


@pytest.fixture(scope="module")
def written(report, labels, tmp_path_factory):
    """The page that the command writes, with its figures beside it."""
    folder = tmp_path_factory.mktemp("page")
    write_report(folder / "report.json", report)
    write_report(folder / "labels.json", labels)
    output = folder / "docs" / "results.md"
    files = ["--report", str(folder / "report.json"), "--labels", str(folder / "labels.json")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "PNG_DPI", 20)
        assert main(["figures", *files, "--output", str(output)]) == 0
    return output


def test_all_figures_are_drawn_and_say_what_they_show(report, labels, written):
    found = page_figures(report, labels)
    assert len({figure.name for figure in found.values()}) == len(found)
    for figure in found.values():
        assert len(figure.alt) > 40
        assert figure.alt.endswith(".")
        assert not re.search(r"None|nan|\{", figure.alt)
    files = {path.name for path in (written.parent / "figures").iterdir()}
    assert files == {f"{f.name}.png" for f in found.values()}


def test_shades_and_numbers_of_a_confusion_matrix_are_its_shares(report):
    canvas = result_figures(report)["4.3"].draw()
    matrices = report["confusion"]["by_gender"]
    for axes, gender in zip(canvas.axes, GENDER.classes, strict=True):
        shares = matrices[gender]["age"]["shares"]
        texts = [text.get_text() for text in axes.texts]
        assert texts == [f"{100 * share:.0f}" for line in shares for share in line]
        shaded = axes.collections[0].get_array()
        np.testing.assert_allclose(np.asarray(shaded).reshape(9, 9), shares)


def test_label_figures_show_the_counts(labels):
    found = data_figures(labels)
    counts = labels["splits"]["validation"]["counts"]
    canvas = found["3.5"].draw()
    for axes, name in zip(canvas.axes, ("age", "race", "gender"), strict=True):
        heights = [bar.get_height() for bar in axes.patches]
        assert heights == list(counts[name].values())
    joint = counts["age × race"]
    assert found["3.7"].data == [
        [joint[f"{age} × {race}"] for age in AGE.classes] for race in RACE.classes
    ]
    joint = counts["gender × race"]
    assert found["3.6"].data["race"] == [
        [joint[f"{gender} × {race}"] for gender in GENDER.classes] for race in RACE.classes
    ]


def test_groups_of_few_faces_are_marked_and_bins_of_few_faces_hollow(report):
    few = copy.deepcopy(report)
    for task in TASKS:
        cells = few["fairness"][task.name]["race"]["accuracy"]["by_group"]
        cells[0] |= {"n": 29, "correct": 20}
    canvas = result_figures(few)["group-accuracy"].draw()
    marked = [t.get_text() for t in canvas.axes[0].get_yticklabels() if "†" in t.get_text()]
    assert f"{RACE.display_name(cells[0]['group'][0])}†" in marked
    hollow = [
        line for axes in result_figures(report)["reliability"].draw().axes for line in axes.lines
    ]
    drawn = sum(len(line.get_xdata()) for line in hollow if line.get_label().startswith("fewer"))
    bins = [b for task in TASKS for b in report["calibration"][task.name]["reliability"]]
    assert drawn == sum(0 < b["n"] < 30 for b in bins) > 0


def test_stale_pictures_are_taken_away_and_other_files_stay(report, tmp_path):
    for name in ("old.svg", "old.png", "notes.txt"):
        (tmp_path / name).write_text("old")
    plots.write_figures([result_figures(report)["risk-coverage"]], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"risk-coverage.png", "notes.txt"}


def test_a_report_without_history_or_robustness_has_the_other_figures(report, labels):
    bare = {key: value for key, value in report.items() if key not in ("history", "robustness")}
    found = result_figures(bare)
    assert "4.1" not in found
    assert len(card_figures(bare)) == len(card_figures(report)) == 3
    text = page(bare, labels)
    assert "## Robustness" not in text


def test_the_command_writes_the_page_and_shows_every_figure_once(report, labels, written):
    text = written.read_text(encoding="utf-8")
    assert text == page(report, labels)
    shown = re.findall(r"!\[[^\]]+\]\((figures/[a-z0-9-]+\.png)\)", text)
    assert len(shown) == len(page_figures(report, labels)) == len(set(shown))
    assert all((written.parent / path).is_file() for path in shown)


def test_the_page_sets_every_cell_beside_the_reports(report, labels):
    text = page(report, labels)
    tables = report["report_comparison"]["tables"].values()
    cells = [cell for table in tables for line in table["cells"] for cell in line if cell["n"]]
    assert len(cells) > 50
    for cell in cells:
        ours, theirs = f"{100 * cell['here']:.1f}", f"{100 * cell['report']:.0f}"
        assert re.search(rf"\| {ours} \([^)]*\), {cell['n']}†? / {theirs} / ", text)


def test_a_report_of_another_layout_is_refused(report, labels):
    with pytest.raises(TableError, match="expected a report of schema"):
        page({**report, "schema": 1}, labels)


def test_a_history_line_that_is_no_epoch_is_named(tmp_path):
    path = tmp_path / "history.jsonl"
    lines = [json.dumps({**entry, "seconds": 3}) for entry in HISTORY]
    path.write_text("\n".join(lines) + "\n")
    assert read_history(path) == HISTORY
    path.write_text("\n".join([*lines, "{}"]))
    with pytest.raises(TableError, match="line 4 is no epoch"):
        read_history(path)
    path.write_text("")
    with pytest.raises(TableError, match="holds no epoch"):
        read_history(path)


def test_a_report_of_very_few_faces_can_be_drawn(tmp_path):
    content = columns(rows=8)
    content["gender_true"] = ["Male"] * 8
    path = tmp_path / "p.parquet"
    pq.write_table(table(content), path)
    few = evaluate(read_predictions(path), draws=5)
    for figure in result_figures(few).values():
        assert figure.draw().axes
        assert "None" not in figure.alt
