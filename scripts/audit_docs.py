"""The tables and figures of docs/audit.md, from the files that measured them.

    python -m scripts.audit_docs --into docs/audit.md

writes what stands between the page's markers from docs/results/audit_*.json. The example's file is
made of an audit of FairFace's validation rows and the cache of `scripts.audit_validity`, which
holds their labels:

    python -m scripts.audit_docs --into docs/audit.md --example AUDIT_FOLDER --cache FOLDER
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from faceattr.audit.render import to_text
from faceattr.labels import AGE, GENDER, RACE, TASKS
from scripts.audit_validity import CLEAN, load
from train.report.results import insert
from train.tables import markdown_table, read_json, write_json, write_text

RESULTS = Path("docs/results")
EXAMPLE = RESULTS / "audit_example.json"
ESTIMATORS = {"counted": "counted", "matrix": "matrix", "em": "EM", "labelled": "300 labels"}
TITLES = {
    "clean": "as they are",
    "jpeg": "JPEG, quality {:g}",
    "blur": "blurred, {:g} % of the side",
    "low_light": "{:g} times less light",
}
AIMS = {"gender": "93 to 98 %", "race": "93 to 98 %", "age": "at least 90 %"}
SIZES = (50_000, 1_000_000, 1_000_000_000)
CORES = 32


def example_of(audit: Path, cache: Path) -> dict[str, Any]:
    """What an audit of the validation rows said, and their shares by their labels."""
    report = read_json(audit / "report.json")
    _, true = load(cache, CLEAN)
    return {
        "faces": report["counts"]["faces"],
        "text": to_text(report),
        "labels": {
            task.name: (np.bincount(true[task.name]) / len(true[task.name])).round(6).tolist()
            for task in TASKS
        },
    }


def _filled(*sentences: str) -> str:
    """A paragraph."""
    return textwrap.fill(" ".join(sentences), 104, break_long_words=False, break_on_hyphens=False)


def example(found: Mapping[str, Any]) -> str:
    """The terminal's answer, what is so, and which intervals miss it."""
    labels = found["labels"]
    said = _filled(
        f"By their labels {100 * labels[GENDER.name][GENDER.index('Male')]:.1f} % are male,",
        f"{_listed(labels[AGE.name])} % belong to the nine age groups and",
        f"{_listed(labels[RACE.name])} % to the seven races, in this order. {_held(found)}",
    )
    command = "faceattr audit HuggingFaceM4/FairFace --config 0.25 --split validation --crops"
    return f"```console\n$ {command} --output audit/\n{found['text']}```\n\n{said}"


def _listed(shares: Sequence[float]) -> str:
    *others, last = (f"{100 * share:.1f}" for share in shares)
    return f"{', '.join(others)} and {last}"


def _held(found: Mapping[str, Any]) -> str:
    """How many of the printed intervals hold the labels' shares, and those that do not."""
    classes = [(task, place) for task in TASKS for place in range(len(task.classes))]
    ends = re.findall(r"\(([\d.]+) to ([\d.]+)\)$", found["text"], re.MULTILINE)
    missed = []
    for (task, place), (low, high) in zip(classes, ends, strict=True):
        share = round(100 * found["labels"][task.name][place], 1)
        if not float(low) <= share <= float(high):
            name = f"{task.name} {task.display_name(task.classes[place])}"
            missed.append(f"{name} ({share} % by labels, interval {low} to {high})")
    if not missed:
        return f"All {len(ends)} intervals hold these shares."
    return (
        f"Of the {len(ends)} intervals {len(ends) - len(missed)} hold these shares; those that do "
        f"not: {'; '.join(missed)}."
    )


def validity(found: Mapping[str, Any]) -> str:
    """Errors and coverage of the images as they are, of labels, and of the warnings."""
    worse = found["draws_of_worse_images"]["corrected"]
    explained = _filled(
        f"For each head {found['draws']} collections of {found['faces']:,} validation faces with",
        f"skewed shares (Dirichlet, {found['concentration']:g}). *Error*: mean absolute error of a",
        "class share. *Coverage*: how often the 95 % interval held the share; for counted shares",
        "the interval of `--population`, for the others that of these images. Collections take a",
        "face several times where its class has too few, for 70+ most often. All rest on one",
        "calibration table: ± is over the collections only. Second table: the",
        f"same collections with worse images; {worse} of each head for warnings and EM.",
        "*Warnings*: of all heads together; in brackets, of these or of any single head, as the",
        "report gives them. Written by",
        "`python -m scripts.audit_validity` (`docs/results/audit_validity.json`).",
    )
    return "\n\n".join([_errors(found), _shifts(found), explained, _summary(found)])


def _errors(found: Mapping[str, Any]) -> str:
    plain = found["variants"]["clean-0"]["shares"]
    rows = [
        [name, *(f"{plain[name][key]['mean_absolute_error']:.4f}" for key in ESTIMATORS)]
        + [f"{plain[name][key]['coverage']:.1%}" for key in ESTIMATORS]
        for name in plain
    ]
    header = ["", *(f"error, {e}" for e in ESTIMATORS.values())]
    header += [f"coverage, {e}" for e in ESTIMATORS.values()]
    return markdown_table(header, rows)


def _shifts(found: Mapping[str, Any]) -> str:
    rows = []
    for facts in found["variants"].values():
        title = TITLES[facts["kind"]].format(facts["level"])
        shift = facts["shift"]
        cells = [title, f"{shift['warnings']} ({shift['with_heads']}) of {shift['draws']}"]
        for key in ("em", "labelled"):
            cells += [
                f"{facts['shares'][task.name][key]['coverage']:.1%}" if "shares" in facts else ""
                for task in TASKS
            ]
        rows.append(cells)
    names = [task.name for task in TASKS]
    header = ["images", "warnings", *(f"EM, {n}" for n in names), *(f"labels, {n}" for n in names)]
    return markdown_table(header, rows)


def _summary(found: Mapping[str, Any]) -> str:
    plain = found["variants"]["clean-0"]["shares"]
    parts = []
    for name, aim in AIMS.items():
        em, counted = plain[name]["em"], plain[name]["counted"]
        share = em["mean_absolute_error"] / counted["mean_absolute_error"]
        held = f"{100 * em['coverage']:.1f} ± {196 * em['coverage_error']:.1f} %"
        parts.append(
            f"- {name}: {share:.0%} of the counted share's error; intervals hold {held}, aim {aim}"
        )
    return "EM, the method that the report recommends:\n\n" + "\n".join(parts)


def _range_of_rates(rounds: Sequence[Mapping[str, float]]) -> str:
    shares = [one["bare_seconds_1"] / one["audit_seconds_1"] for one in rounds]
    return f"{min(shares):.0%} to {max(shares):.0%}"


def size(runs: Mapping[str, Any]) -> str:
    """Rates, memory, kills and the table of costs."""
    whole, rates, photos = runs["undisturbed"], runs["rates"], runs["photographs"]
    kills = [runs[name] for name in ("killed_local", "killed_ray")]
    same = "the tables of" if all(run["equal"] for run in kills) else "other tables than"
    said = _filled(
        f"One machine: `--workers` processes, one thread each. {whole['images']:,} crops took",
        f"{whole['workers']} workers {whole['seconds']:.0f} s. Two workers are",
        f"{rates['two_workers_faster_by']:.2f} times as fast as one, which reaches",
        f"{rates['share_of_bare_rate']:.0%} of the bare pipeline's rate (medians of",
        f"{len(rates['rounds'])} rounds, {_range_of_rates(rates['rounds'])}; starting and joining",
        "included; the machine had other work). A worker needs",
        f"{whole['peak_megabytes_at_1000']:.0f} MB at 1,000 and",
        f"{whole['peak_megabytes']:.0f} MB at {whole['images']:,} images. {kills[0]['images']:,}",
        f"images killed {len(kills[0]['kills_after_parts'])} times by SIGKILL gave {same} an",
        "undisturbed run with either engine (`python -m scripts.audit_torture`,",
        "`docs/results/audit_runs.json`).",
    )
    crop, photo = 1000 / rates["bare_images_per_second"], photos["cpu_milliseconds"]
    cost = _filled(
        f"One core of that machine takes {photo:.0f} ms of CPU time for a group photograph (median",
        f"of {photos['images']}, with {photos['faces']:g} faces on {photos['side']:g} pixels) and",
        f"{crop:.0f} ms for a crop. On paper:",
    )
    rows = [
        [f"{images:,}", *(cell for ms in (photo, crop) for cell in _cost(images * ms / 3.6e6))]
        for images in SIZES
    ]
    days = f"days on {CORES} cores"
    header = ["images", "photographs: core hours", days, "crops: core hours", days]
    hours = 1e6 * photo / 3.6e6
    sum_ = _filled(
        f"1,000,000 × {photo / 1000:.3f} s / 3,600 = {hours:.0f} core hours; / {CORES} / 24 =",
        f"{hours / CORES / 24:.3f} days. A billion was not run.",
    )
    return "\n\n".join([said, cost, markdown_table(header, rows), sum_])


def _cost(hours: float) -> list[str]:
    return [f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}", f"{hours / CORES / 24:.2g}"]


def main() -> None:
    """Parse the command line and carry it out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--into", type=Path, required=True, help="Markdown file with the markers")
    parser.add_argument("--example", type=Path, metavar="FOLDER", help="audit to show")
    parser.add_argument("--cache", type=Path, help="of scripts.audit_validity, for --example")
    args = parser.parse_args()
    if (args.example is None) != (args.cache is None):
        parser.error("--example and --cache go together")
    if args.example is not None:
        write_json(EXAMPLE, example_of(args.example, args.cache))
    text = args.into.read_text(encoding="utf-8")
    text = insert(text, example(read_json(EXAMPLE)), "example")
    text = insert(text, validity(read_json(RESULTS / "audit_validity.json")), "validity")
    text = insert(text, size(read_json(RESULTS / "audit_runs.json")), "size")
    write_text(args.into, text)


if __name__ == "__main__":
    main()
