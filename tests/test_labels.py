import pytest
from synthetic import HUB_CLASSES

from faceattr.errors import LabelError
from faceattr.labels import AGE, GENDER, RACE, TASKS, task

HUB_RACES = HUB_CLASSES["race"]


def test_maps_a_data_sets_order_by_name():
    mapped = RACE.indices(HUB_RACES)
    assert [RACE.classes[index] for index in mapped] == HUB_RACES


def test_maps_a_mirror_that_swaps_genders():
    assert GENDER.indices(["Female", "Male"]) == (1, 0)


@pytest.mark.parametrize("spelling", ["more than 70", "70+", "More Than 70"])
def test_knows_every_spelling_of_the_oldest_group(spelling):
    assert AGE.classes[AGE.index(spelling)] == "more than 70"


@pytest.mark.parametrize("spelling", ["Latino_Hispanic", "Latino/Hispanic", "latino hispanic"])
def test_knows_every_spelling_of_latino(spelling):
    assert RACE.classes[RACE.index(spelling)] == "Latino_Hispanic"


def test_unknown_class_names_what_was_expected():
    with pytest.raises(LabelError, match=r"'Martian'.*White, Black"):
        RACE.index("Martian")


@pytest.mark.parametrize("years", ["39", "02", "1019", "7"])
def test_an_age_in_years_is_no_age_group(years):
    with pytest.raises(LabelError, match="not a class of 'age'"):
        AGE.index(years)


def test_two_names_for_one_class_are_refused():
    with pytest.raises(LabelError, match="mean the same"):
        AGE.indices(["70+", "more than 70"])


def test_unknown_task_names_the_tasks():
    with pytest.raises(LabelError, match="gender.*age.*race"):
        task("emotion")


def test_classes_are_fairfaces():
    assert [len(t.classes) for t in TASKS] == [2, 9, 7]
    assert {RACE.classes[i] for i in range(7)} == set(HUB_RACES)
    assert AGE.classes == tuple(sorted(AGE.classes[:-1], key=lambda a: int(a.split("-")[0]))) + (
        "more than 70",
    )


def test_display_names_are_for_people():
    assert AGE.display_name("more than 70") == "70+"
    assert RACE.display_name("Latino_Hispanic") == "Latino/Hispanic"
    assert RACE.display_name("White") == "White"
