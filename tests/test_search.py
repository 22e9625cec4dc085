"""Faces of every size and turn, each once: with a detector of made-up faces, and with YuNet."""

import cv2
import numpy as np
import pytest

from faceattr.detection import YuNetDetector
from faceattr.images import decode_image
from faceattr.results import Detection, FaceBox
from faceattr.search import distinct, find, turn_back, turn_image
from scripts.measure_detection import count_matches, measure_photos, read_chips, scene, search

RED, GREEN = (255, 0, 0), (0, 255, 0)


def draw(image, x, y, side, turn=0):
    """A made-up face: a red square whose upper third is green; `turn` makes it stand upright."""
    face = np.full((side, side, 3), RED, np.uint8)
    face[: side // 3] = GREEN
    image[y : y + side, x : x + side] = turn_image(face, (360 - turn) % 360)


def look(copy):
    """Finds such faces of 10 to 300 px, and those upside down with less confidence."""
    mask = ((copy.max(2) > 100) & (copy[:, :, 2] < 100)).astype(np.uint8)
    found = []
    for x, y, width, height, _ in cv2.connectedComponentsWithStats(mask)[2][1:].tolist():
        if not (10 <= width <= 300 and abs(width - height) < 4):
            continue
        green = copy[y : y + height, x : x + width, 1].astype(float)
        top, bottom = green[: height // 3].mean(), green[-(height // 3) :].mean()
        sides = abs(green[:, : width // 3].mean() - green[:, -(width // 3) :].mean())
        if sides < 60:
            score = 0.94 if top > bottom else 0.8
            found.append(Detection(FaceBox(x, y, width, height), score, None, "made-up"))
    return found


def blank(width, height):
    return np.zeros((height, width, 3), np.uint8)


def assert_places(faces, places, *, within=0.1):
    """Each place has one face, and there is no other."""
    assert len(faces) == len(places)
    for x, y, side in places:
        box = FaceBox(x, y, side, side)
        assert sum(face.box.iou(box) > 1 - 2 * within for face in faces) == 1


@pytest.mark.parametrize("side", [200, 640, 1200, 4000])
def test_a_face_that_fills_the_image_is_found_whatever_its_pixels(side):
    image = blank(side, side)
    draw(image, side // 10, side // 10, side * 8 // 10)
    assert_places(find(look, image), [(side // 10, side // 10, side * 8 // 10)])


def test_large_and_small_faces_come_once_each():
    image = blank(1600, 1200)
    places = [(20, 20, 1000), (1100, 100, 200), (1400, 100, 60), (1200, 800, 320)]
    for place in places:
        draw(image, *place)
    assert_places(find(look, image), places)
    assert_places(find(look, image, thorough=True), places)


def test_a_thorough_search_sees_what_is_too_small_for_a_fast_one():
    image = blank(4000, 3000)
    places = [(100, 100, 40), (2047, 1600, 40), (3900, 2900, 50), (1000, 300, 900)]
    for place in places:
        draw(image, *place)
    assert_places(find(look, image), places[3:])
    assert_places(find(look, image, thorough=True), places)


def test_a_panorama_is_looked_at_with_as_many_pixels_as_a_photo():
    image = blank(9000, 1000)
    places = [(400 * k, 300, 120) for k in range(20)]
    for place in places:
        draw(image, *place)
    assert_places(find(look, image), places, within=0.2)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_faces_of_a_turned_image_are_found_where_they_are(turn):
    image = blank(640, 480)
    places = [(50, 60, 100), (300, 60, 100), (400, 300, 80)]
    for place in places:
        draw(image, *place, turn=turn)
    faces = find(look, image)
    assert_places(faces, places)
    assert {face.turn for face in faces} == {turn}
    assert all(face.turn_sure for face in faces)


def test_one_face_upside_down_among_upright_ones_is_told_apart():
    image = blank(640, 480)
    for x in (50, 250):
        draw(image, x, 100, 90)
    draw(image, 450, 100, 90, turn=180)
    turns = {round(face.box.x, -1): face.turn for face in find(look, image)}
    assert turns == {50: 0, 250: 0, 450: 180}


def test_where_no_turn_is_likelier_it_is_unsure():
    def blind(copy):
        return [Detection(face.box, 0.85, None, "made-up") for face in look(copy)]

    image = blank(640, 480)
    draw(image, 100, 100, 120)
    (face,) = find(blind, image)
    assert not face.turn_sure


def test_an_upright_image_costs_a_tenth_more_than_one_look():
    pixels = []

    def counted(copy):
        pixels.append(copy.shape[0] * copy.shape[1])
        return look(copy)

    image = blank(640, 480)
    draw(image, 100, 100, 120)
    find(counted, image)
    assert sum(pixels) <= 1.1 * 640 * 480


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_turning_back_undoes_turning(turn):
    image = blank(50, 30)
    draw(image, 7, 3, 12)
    x, y, width, height = cv2.boundingRect(turn_image(image, turn).max(2))
    face = Detection(FaceBox(x, y, width, height), 0.9, ((x, y),) * 5, "made-up")
    back = turn_back(face, turn, 50, 30)
    assert back.box == FaceBox(7, 3, 12, 12)
    assert back.turn == turn
    assert back.landmarks[0] in {(7, 3), (7, 15), (19, 3), (19, 15)}


def test_of_boxes_that_overlap_or_lie_within_the_most_confident_stays():
    def face(score, *box):
        return Detection(FaceBox(*box), score, None, "made-up")

    whole, part, beside = (
        face(0.9, 0, 0, 90, 90),
        face(0.8, 30, 30, 20, 20),
        face(0.7, 80, 0, 90, 90),
    )
    shifted = face(0.85, 5, 5, 90, 90)
    assert distinct([part, beside, shifted, whole]) == [whole, beside]


@pytest.fixture(scope="module")
def chips(fairface_dir):
    return list(read_chips(fairface_dir, 40))


@pytest.fixture(scope="module")
def yunet():
    return YuNetDetector()


@pytest.mark.parametrize("side", [224, 640, 1200, 2000])
def test_a_close_up_is_found_at_any_size(chips, yunet, side):
    near = chips[2][26:182, 34:190]
    (face,) = yunet.detect(cv2.resize(near, (side, side)))
    assert face.turn == 0
    assert face.box.width > side / 2


def test_small_faces_of_a_large_image_are_found_by_a_thorough_search(chips, yunet):
    image, truth = scene(chips[:12], 4000, 3000, 4, 100, np.random.default_rng(0))
    assert count_matches(search(yunet)(image), truth)[0] <= 6
    found, false = count_matches(search(yunet, thorough=True)(image), truth)
    assert found >= 11
    assert false == 0


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_turned_photos_lose_no_more_than_3_of_43_faces(photos_dir, yunet, turn):
    total = measure_photos(search(yunet), photos_dir, turn)
    assert total["found"] >= 40
    assert total["false"] == 0


def test_chips_side_by_side_are_found_once_each(chips, yunet):
    tiles = [[cv2.resize(chips[(6 * r + c) % 40], (96, 96)) for c in range(6)] for r in range(6)]
    faces = yunet.detect(np.vstack([np.hstack(row) for row in tiles]))
    cells = [
        (int(f.box.x + f.box.width / 2) // 96, int(f.box.y + f.box.height / 2) // 96) for f in faces
    ]
    assert len(set(cells)) == len(cells) >= 34


def test_the_turn_of_a_photo_is_that_of_its_faces(photos_dir, yunet):
    image = decode_image(photos_dir / "2008_002506.jpg")
    faces = yunet.detect(turn_image(image, 90))
    assert [face.turn for face in faces] == [270] * 3
