"""Networks and pipelines to folders and to the Hub, and back, bit for bit."""

import json
import stat
import sys

import numpy as np
import pytest
import torch
from hub_server import HubServer
from huggingface_hub import ModelCard

from faceattr import FaceAttributeModel, FacePipeline, LightweightMTLNet224, PublishError
from faceattr.backends.export import export
from faceattr.errors import FaceAttrError, WeightsError
from faceattr.hub import BUNDLED, BUNDLED_NAMES
from faceattr.model import ModelConfig
from faceattr.publishing import golden_answers

# huggingface_hub 2.4 uploads LFS files through a parameter that httpx2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPO = "user/faces"
TINY = ModelConfig(sizes={"widths": (4, 4, 4, 4, 4, 4, 4), "hidden": 8})


@pytest.fixture
def hub(monkeypatch):
    """A running Hub that this process's client talks to."""
    with HubServer() as server:
        server.admit(monkeypatch)
        yield server


@pytest.fixture
def network():
    torch.manual_seed(5)
    return LightweightMTLNet224(TINY)


def send(hub, thing, repo_id=REPO, **options):
    return thing.push_to_hub(repo_id, endpoint=hub.url, token=hub.token, **options)


def noise(count=2):
    return np.random.default_rng(0).integers(0, 256, (count, 224, 224, 3), dtype=np.uint8)


def arrived(hub, result, folder):
    """What a stranger gets who downloads the commit."""
    folder.mkdir()
    for name, content in hub.repo(result.repo_id).files(result.commit).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def same_answers(one, other):
    return [f.to_dict() for f in one.classify_crops(noise())] == [
        f.to_dict() for f in other.classify_crops(noise())
    ]


def test_a_network_goes_to_the_hub_and_comes_back_bit_for_bit(hub, network, tmp_path):
    result = send(hub, network)
    assert result.changed
    there = arrived(hub, result, tmp_path / "there")
    assert {p.name for p in there.iterdir()} == {
        *("README.md", "config.json", "model.safetensors", ".gitattributes")
    }
    back = FaceAttributeModel.from_pretrained(there)
    chips = back.config.preprocessing.to_tensor(list(noise()))
    expected = network.eval()(chips)
    for task, logits in back(chips).items():
        assert torch.equal(logits, expected[task])


def test_the_card_that_is_made_is_valid_and_loads_this_repository(hub, network, tmp_path):
    there = arrived(hub, send(hub, network), tmp_path / "there")
    card = ModelCard.load(there / "README.md")
    assert card.data.library_name == "faceattr"
    assert f'from_pretrained("{REPO}")' in card.text
    assert "Latino/Hispanic" in card.text
    assert "Nothing was measured" in card.text


def test_a_card_of_ones_own_is_taken(hub, network, tmp_path):
    card = tmp_path / "card.md"
    card.write_text('---\nlicense: mit\n---\n# Mine: from_pretrained("a/b")\n')
    there = arrived(hub, send(hub, network, card=card), tmp_path / "there")
    assert (there / "README.md").read_text() == card.read_text().replace("a/b", REPO)
    card.write_text("# no metadata")
    with pytest.raises(PublishError, match="no metadata"):
        send(hub, network, card=card)
    with pytest.raises(PublishError, match="cannot read the card .*none.md': No such file"):
        send(hub, network, card=tmp_path / "none.md")


def test_the_same_again_makes_no_commit(hub, network):
    first, second = send(hub, network), send(hub, network)
    assert (second.commit, second.changed) == (first.commit, False)


def test_a_branch_and_a_private_repository(hub, network):
    result = send(hub, network, private=True, revision="trial", message="A trial")
    assert hub.repo(REPO).private
    assert hub.repo(REPO).branches["trial"] == result.commit
    assert hub.repo(REPO).branches["main"] != result.commit


def test_without_a_token_nothing_is_sent(hub, network, monkeypatch):
    monkeypatch.setattr("faceattr.publishing.get_token", lambda: None)
    with pytest.raises(FaceAttrError, match="no Hub token found"):
        network.push_to_hub(REPO, endpoint=hub.url)
    assert hub.requests == []


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_a_pipeline_of_bundled_weights_is_saved_whole(backend, tmp_path):
    name = BUNDLED_NAMES[0]
    pipeline = FacePipeline.from_pretrained(name, backend=backend)
    pipeline.save_pretrained(tmp_path / "saved")
    for file in ("config.json", "model.safetensors", "model.onnx", "README.md", "report.json"):
        expected = (BUNDLED / name / file).read_bytes()
        assert (tmp_path / "saved" / file).read_bytes() == expected, file
    assert list((tmp_path / "saved" / "figures").glob("*.png"))
    for kind in ("torch", "onnx"):
        again = FacePipeline.from_pretrained(tmp_path / "saved", backend=kind)
        if kind == backend:
            assert same_answers(pipeline, again)


def test_a_network_that_was_changed_leaves_what_described_the_old_one_behind(tmp_path):
    pipeline = FacePipeline.from_pretrained(backend="torch")
    with torch.no_grad():
        pipeline.model.heads["age"].bias += 1
    pipeline.save_pretrained(tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert names == {"config.json", "model.safetensors"}
    again = FacePipeline.from_pretrained(tmp_path / "saved", backend="torch")
    for task, values in again.model.state_dict().items():
        assert torch.equal(values, pipeline.model.state_dict()[task])


def files_of(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_pipeline_is_saved_where_it_came_from(tmp_path):
    """What described the weights stays as long as they are the same, and no longer."""
    folder = tmp_path / "mine"
    FacePipeline.from_pretrained().save_pretrained(folder)
    (folder / "notes.txt").write_text("mine")
    before = files_of(folder)
    pipeline = FacePipeline.from_pretrained(folder, backend="torch")
    pipeline.save_pretrained(folder)
    assert files_of(folder) == before
    with torch.no_grad():
        pipeline.model.heads["age"].bias += 1
    pipeline.save_pretrained(folder)
    assert set(files_of(folder)) == {"config.json", "model.safetensors", "notes.txt"}
    (folder / "README.md").write_text("a card of my own")
    with torch.no_grad():
        pipeline.model.heads["age"].bias += 1
    pipeline.save_pretrained(folder)
    assert (folder / "README.md").is_file()  # It is nobody else's.
    assert FacePipeline.from_pretrained(folder).info.backend == "torch"


@pytest.fixture
def mirrored(hub, monkeypatch, tmp_path):
    """A pipeline of the repository, where bundled weights are."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    hub.add_repo(REPO).commit("main", files_of(BUNDLED / BUNDLED_NAMES[0]))
    return FacePipeline.from_pretrained(REPO, backend="onnx")


def test_weights_from_the_hub_are_pushed_with_all_that_belongs_to_them(hub, mirrored):
    result = send(hub, mirrored, "user/copy")
    there = hub.repo("user/copy").files(result.commit)
    expected = hub.repo(REPO).files() | {"README.md": there["README.md"]}
    del expected["history.jsonl"], there[".gitattributes"]
    assert there == expected


@pytest.mark.parametrize(("method", "path"), [("GET", "/tree/"), ("HEAD", "audit.json")])
def test_a_fault_of_the_hub_deletes_nothing_there(hub, mirrored, method, path):
    before = hub.repo(REPO).files()
    hub.fail_next(method, path, 403)
    with pytest.raises(WeightsError, match="lies beside the weights of 'user/faces'"):
        send(hub, mirrored)
    assert hub.repo(REPO).files() == before


def test_what_described_other_weights_there_goes_with_them(hub, mirrored, network, tmp_path):
    hub.repo(REPO).commit("main", hub.repo(REPO).files() | {"notes.txt": b"somebody's"})
    result = send(hub, network)
    assert hub.repo(REPO).files(result.commit).keys() == {
        *("README.md", "config.json", "model.safetensors", "notes.txt", "history.jsonl")
    }
    (tmp_path / "mine").mkdir()
    for name in ("config.json", "model.onnx"):
        (tmp_path / "mine" / name).write_bytes((BUNDLED / BUNDLED_NAMES[0] / name).read_bytes())
    result = send(hub, FacePipeline.from_pretrained(tmp_path / "mine"))
    assert "model.safetensors" not in hub.repo(REPO).files(result.commit)


def test_a_network_with_other_parts_is_a_changed_one(network, tmp_path):
    network.save_pretrained(tmp_path / "mine")
    pipeline = FacePipeline.from_pretrained(tmp_path / "mine", backend="torch")
    pipeline.model.extra = torch.nn.Linear(2, 2)
    pipeline.save_pretrained(tmp_path / "saved")
    with pytest.raises(WeightsError, match="unexpected .*extra.weight"):
        FacePipeline.from_pretrained(tmp_path / "saved", backend="torch")


def test_a_pipeline_goes_to_the_hub_and_comes_back_bit_for_bit(hub, network, tmp_path):
    network.save_pretrained(tmp_path / "mine")
    export(tmp_path / "mine")
    for backend in ("torch", "onnx"):
        pipeline = FacePipeline.from_pretrained(tmp_path / "mine", backend=backend)
        result = send(hub, pipeline, f"user/{backend}")
        there = arrived(hub, result, tmp_path / backend)
        assert {"model.onnx", "model.safetensors", "config.json"} <= {
            path.name for path in there.iterdir()
        }
        assert same_answers(pipeline, FacePipeline.from_pretrained(there, backend=backend))


@pytest.mark.parametrize("both", [True, False])
def test_without_pytorch_the_onnx_file_proves_it(hub, network, tmp_path, monkeypatch, both):
    network.save_pretrained(tmp_path / "mine")
    export(tmp_path / "mine")
    if not both:
        (tmp_path / "mine" / "model.safetensors").unlink()
    pipeline = FacePipeline.from_pretrained(tmp_path / "mine", backend="onnx")
    monkeypatch.setitem(sys.modules, "torch", None)
    result = send(hub, pipeline)
    there = arrived(hub, result, tmp_path / "there")
    assert golden_answers(there).keys() == {"gender", "age", "race"}
    assert same_answers(pipeline, FacePipeline.from_pretrained(there, backend="onnx"))


def test_saved_files_are_readable_by_whom_the_user_lets_read(network, tmp_path):
    import os

    before = os.umask(0o022)
    try:
        network.save_pretrained(tmp_path / "network")
        export(tmp_path / "network")
        FacePipeline.from_pretrained(tmp_path / "network").save_pretrained(tmp_path / "pipeline")
    finally:
        os.umask(before)
    for path in [*tmp_path.glob("network/*"), *tmp_path.glob("pipeline/*")]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o644, path


def test_a_pipeline_without_files_or_network_cannot_be_saved(tmp_path):
    pipeline = FacePipeline.from_pretrained(backend="onnx")
    pipeline.files = None
    with pytest.raises(FaceAttrError, match="neither a network nor files"):
        pipeline.save_pretrained(tmp_path / "saved")


def test_what_is_saved_names_its_config(network, tmp_path):
    FacePipeline(network, FacePipeline.from_pretrained().detector).save_pretrained(tmp_path / "p")
    saved = json.loads((tmp_path / "p" / "config.json").read_text())
    assert saved["architecture"] == "LightweightMTLNet224"
