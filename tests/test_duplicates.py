import json

import pyarrow.parquet as pq

from train.__main__ import main


def test_the_same_picture_within_and_across_parts_is_counted(tmp_path, tiny_fairface):
    """A copy of the made-up data in which some rows repeat the picture of others."""
    from shutil import copytree

    data = tmp_path / "fairface"
    copytree(tiny_fairface, data)
    train = sorted(path for path in data.rglob("*.parquet") if "train" in path.name)[0]
    validation = sorted(path for path in data.rglob("*.parquet") if "validation" in path.name)[0]
    table, other = pq.read_table(train), pq.read_table(validation)
    images, others = table["image"].to_pylist(), other["image"].to_pylist()
    # Rows 1 and 2 of the training split are trained on; 20 is the first of the holdout.
    images[1]["bytes"] = images[0]["bytes"]
    images[19]["bytes"] = images[2]["bytes"]
    others[3]["bytes"] = others[4]["bytes"] = images[2]["bytes"]
    assert images[19]["path"] == "20.jpg"
    for path, stored, column in ((train, table, images), (validation, other, others)):
        kind = stored.schema.field("image")
        changed = stored.set_column(stored.schema.get_field_index("image"), kind, [column])
        pq.write_table(changed, path)
    output = tmp_path / "duplicates.json"
    assert main(["duplicates", "--data", str(data), "--output", str(output)]) == 0
    found = json.loads(output.read_text())["splits"]
    assert {part: counts["repeated"] for part, counts in found["within"].items()} == {
        "train": 1,
        "holdout": 0,
        "validation": 1,
    }
    assert [(p["first"], p["second"], p["pictures"]) for p in found["across"]] == [
        ("train", "holdout", 1),
        ("train", "validation", 1),
        ("holdout", "validation", 1),
    ]
