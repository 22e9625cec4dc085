"""From arrays to the report's values, its page and its Markdown."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from audit_data import FACTS, calibration, collected

from faceattr.audit.labelling import Labels
from faceattr.audit.measured import Question
from faceattr.audit.render import figure, interval, to_html, to_markdown, to_text
from faceattr.audit.report import build_report
from faceattr.errors import AuditError
from faceattr.labels import TASKS


@pytest.fixture(scope="module")
def report():
    rng = np.random.default_rng(1)
    found, _ = collected(rng, groups=("north", "<south>"))
    return build_report(found, FACTS, Question(by="region"), calibration(rng))


def test_counted_shares_are_the_likeliest_classes(report):
    rng = np.random.default_rng(1)
    found, _ = collected(rng, groups=("north", "<south>"))
    for task, table in zip(TASKS, report["tasks"], strict=True):
        likeliest = found.probabilities[task.name].argmax(1)
        counts = np.bincount(likeliest, minlength=len(task.classes))
        assert [row["count"] for row in table["rows"]] == counts.tolist()
        shares = [row["counted"][0] for row in table["rows"]]
        np.testing.assert_allclose(shares, counts / counts.sum())
        assert [row["few"] for row in table["rows"]] == (counts < 30).tolist()


def test_corrected_shares_are_nearer_to_the_truth_than_counted_ones(report):
    _, true = collected(np.random.default_rng(1), groups=("north", "<south>"))
    race = report["tasks"][2]
    real = np.bincount(true["race"], minlength=7) / 600
    counted, corrected = (
        np.abs([row[kind][0] - r for row, r in zip(race["rows"], real, strict=True)]).mean()
        for kind in ("counted", "corrected")
    )
    assert corrected < counted
    assert all(
        row["corrected"][1] <= row["corrected"][0] <= row["corrected"][2] for row in race["rows"]
    )


def test_what_was_left_out_adds_up_over_groups(report):
    whole, groups = report["counts"], report["counts_by_group"]
    assert set(groups) == {"north", "<south>"}
    for key in ("images", "failed", "without_face", "faces"):
        assert whole[key] == sum(values[key] for values in groups.values())
    assert whole["images"] == 605 and whole["failed"] == 2 and whole["without_face"] == 3
    assert whole["failed_by_kind"] == {"undecodable": 2}


def test_every_group_has_its_shares(report):
    tables = report["by"]["tables"]
    assert [table["name"] for table in tables] == [task.name for task in TASKS]
    faces = [row["faces"] for row in tables[0]["rows"]]
    assert sum(faces) == 600
    for row in tables[0]["rows"]:
        assert sum(cell["count"] for cell in row["cells"]) == row["faces"]


def test_the_report_is_json_and_the_page_needs_no_network_and_escapes_names(report):
    again = json.loads(json.dumps(report, allow_nan=False))
    page = to_html(again)
    assert "made up &lt;b&gt;" in page and "a&lt;script&gt;.jpg" in page
    assert "<script" not in page and "&lt;south&gt;" in page
    assert not re.findall(r'(?:src|href)="', page)
    assert "http://" not in page and "https://" not in page
    assert page.count("<svg") >= 3 and page.count("<h1") == 1


def test_markdown_and_text_hold_the_shares_of_every_class(report):
    markdown, text = to_markdown(report), to_text(report)
    for task in TASKS:
        for name in task.classes:
            shown = task.display_name(name)
            assert f"| {shown} |" in markdown and f"  {shown} " in text
    assert "for example" in text and "a<script>.jpg" in text
    lines = markdown.splitlines()
    rules = [n for n, line in enumerate(lines) if line.startswith("|---")]
    assert len(rules) == len(TASKS) + 1
    for rule, classes in zip(rules, [len(task.classes) for task in TASKS], strict=False):
        table = lines[rule - 1 : rule + classes + 1]
        assert {line.count("|") for line in table} == {table[0].count("|")}
        assert lines[rule - 2] == "" == lines[rule + classes + 1]


def test_without_a_calibration_nothing_is_corrected_and_the_report_says_so():
    found, _ = collected(np.random.default_rng(2))
    report = build_report(found, FACTS, Question(), None)
    assert report["warnings"][0]["title"] == "Nothing is corrected."
    assert all(row["corrected"] is None for table in report["tasks"] for row in table["rows"])
    assert "Nothing is corrected." in to_html(report)


def test_a_correction_of_mirrored_answers_says_what_it_was_made_for():
    rng = np.random.default_rng(1)
    found, _ = collected(rng)
    said = [
        build_report(found, {**FACTS, "mirror": mirror}, Question(), calibration(rng))["warnings"]
        for mirror in (False, True)
    ]
    assert [sum("(--mirror)" in one["text"] for one in found) for found in said] == [0, 1]


def other_system(found, truth, said):
    """What a report says of another system whose values repeat over the faces."""
    columns = {"true": truth, "said": said}
    repeated = {name: (values * found.faces)[: found.faces] for name, values in columns.items()}
    question = Question(truth="true", prediction="said")
    asked = replace(found, columns=repeated)
    return build_report(asked, FACTS, question, calibration(np.random.default_rng(1)))[
        "other_system"
    ]


@pytest.mark.parametrize(
    ("truth", "said"),
    [
        (["1", "0", "1", ""], ["1", "1", "1", ""]),
        (["1", "0", "1", None], ["1.0", "1.0", "1.0", "1.0"]),
    ],
)
def test_another_systems_gaps_are_no_answers_and_one_is_one_however_written(truth, said):
    found, _ = collected(np.random.default_rng(1))
    text = other_system(found, truth, said)["text"]
    assert "66.7\xa0% of 450 faces; left out: 150 faces that lack one of them" in text


def test_columns_that_call_things_by_different_names_are_refused():
    found, _ = collected(np.random.default_rng(1))
    with pytest.raises(AuditError, match=r"'said' \('0', '1'\) occurs in 'true' \('cat', 'dog'\)"):
        other_system(found, ["cat", "dog"], ["0", "1"])


def test_a_collection_without_a_face_gives_a_report_without_shares():
    found, _ = collected(np.random.default_rng(2), faces=0)
    report = build_report(found, FACTS, Question(), None)
    assert report["tasks"] == [] and report["counts"]["without_face"] == 3
    assert "No face was found" in to_html(report) and to_markdown(report)
    assert "No face was found" in to_text(report)
    with_table = build_report(found, FACTS, Question(), calibration(np.random.default_rng(2)))
    assert "intervals" not in to_text(with_table)


@pytest.mark.parametrize("faces", [1, 99, 100])
def test_a_report_of_few_faces_says_first_what_its_intervals_are_worth(faces):
    rng = np.random.default_rng(5)
    found, _ = collected(rng, faces=faces)
    report = build_report(found, FACTS, Question(), calibration(rng))
    noun = "1 face" if faces == 1 else f"{faces} faces"
    written = [to_html(report), to_markdown(report), to_text(report)]
    assert all(f" {noun}" in text and "1 faces" not in text for text in written)
    said = "0 to 100 % says that nothing is known"
    assert [said in text for text in written] == [faces < 100] * 3
    if faces < 100:
        assert report["warnings"][0]["title"] == f"With {noun} the intervals are wide:"


@pytest.mark.parametrize("population", [False, True])
def test_a_report_claims_no_interval_and_no_correction_that_it_lacks(population):
    found, true = collected(np.random.default_rng(2), faces=150)
    told = {name: codes[:100] for name, codes in true.items()}
    labels = Labels(np.arange(100), np.full(100, 2 / 3), told)
    question = Question(population=population, labels=labels)
    report = build_report(found, FACTS, question, None)
    assert "Counted shares are what" in report["question_text"]
    assert "Shares with labels by hand assume nothing" in report["question_text"]
    assert "shares, but for those with labels, are as" in report["warnings"][0]["text"]
    assert not any("corrected" in text for text in report["method"])
    assert "taken for one face" in report["method"][0]
    captions = re.findall("share of all faces, counted(.*?)<", to_html(report))
    assert ["95 %" in text for text in captions] == [population] * 2


def test_a_report_says_which_faces_were_looked_for():
    found, _ = collected(np.random.default_rng(2), faces=3)
    facts = {**FACTS, "crops": False, "detector": "yunet", "detect": "fast", "min_face": 24.0}
    report = build_report(found, facts, Question(), None)
    assert dict(report["provenance"])["Detector"] == "yunet, fast, faces from 24 pixels on"
    assert "its faces are found" in report["method"][0]


def test_a_way_out_that_was_taken_is_not_advised_again():
    rng = np.random.default_rng(2)
    found, true = collected(rng, faces=400)
    flat = {name: values**0.2 for name, values in found.probabilities.items()}
    worse = {name: values / values.sum(axis=1, keepdims=True) for name, values in flat.items()}
    labels = Labels(np.arange(100), np.full(100, 0.25), {n: c[:100] for n, c in true.items()})
    first = [
        build_report(
            replace(found, probabilities=worse), FACTS, Question(labels=given), calibration(rng)
        )["warnings"][0]
        for given in (None, labels)
    ]
    assert {one["title"] for one in first} == {"The corrected shares are not to be trusted."}
    assert ["--label-sample" in one["text"] for one in first] == [True, False]
    assert "Those with labels assume nothing" in first[1]["text"]


def test_a_head_that_the_correction_does_not_fit_is_named_wherever_it_is_shown():
    rng = np.random.default_rng(2)
    found, _ = collected(rng, faces=400)
    worse = found.probabilities["age"] ** 0.2
    worse = {**found.probabilities, "age": worse / worse.sum(axis=1, keepdims=True)}
    question = Question(merge=("age:young=0-2,3-9,10-19",))
    found = replace(found, probabilities=worse)
    report = build_report(found, FACTS, question, calibration(rng))
    warned = [table["name"] for table in report["tasks"] if table["warning"]]
    assert warned == ["age", "age (own bins)"]
    for text in (to_html(report), to_markdown(report), to_text(report)):
        assert text.count("The correction does not fit these answers") == 2


def test_names_from_a_collection_break_no_table_and_move_no_cursor():
    failed = {"undecodable": 1}
    found, _ = collected(np.random.default_rng(2), 9, groups=("a|b", "c\nd"), failed=failed)
    found = replace(found, messages={"undecodable": ("\x1b[2J.jpg", "a [link](x)")})
    report = build_report(found, FACTS, Question(by="<x>"), None)
    markdown, text = to_markdown(report), to_text(report)
    rows = markdown.partition("| \\<x> |")[2].splitlines()
    assert rows[3].startswith("| a\\|b | ") and rows[4].startswith("| c\\\\nd | ")
    assert "\\\\x1b\\[2J.jpg: a \\[link](x)" in markdown
    assert "\\x1b[2J.jpg" in text and "\x1b" not in text


def test_own_bins_are_a_table_of_their_own():
    rng = np.random.default_rng(3)
    found, _ = collected(rng)
    bins = "age:child=0-2,3-9,10-19;adult=20-29,30-39,40-49,50-59,60-69,70+"
    report = build_report(found, FACTS, Question(merge=(bins,)), calibration(rng))
    own = report["tasks"][-1]
    assert [row["display"] for row in own["rows"]] == ["child", "adult"]
    age = report["tasks"][1]["rows"]
    assert own["rows"][0]["count"] == sum(row["count"] for row in age[:3])
    with pytest.raises(AuditError):
        build_report(found, FACTS, Question(merge=("age:child",)), None)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.1234, 0.1, 0.15], "12.3\u00a0% (10.0 to 15.0)"),
        ([0.5, None, None], "50.0\u00a0%"),
        (None, "–"),
        ([-0.02, -0.05, 0.01], "−2.0\u00a0% (−5.0 to 1.0)"),
    ],
)
def test_intervals_are_written_for_people(values, text):
    assert interval(values) == text


def test_a_figure_draws_every_estimate_within_its_axis(report):
    drawn = figure(report["tasks"][0])
    assert drawn.count("k-counted") == drawn.count("k-corrected") == 2
    places = [float(x) for x in re.findall(r'c?x[12]?="([\d.]+)"', drawn)]
    assert min(places) >= 0 and max(places) <= 440
