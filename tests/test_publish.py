"""Publishing: the real huggingface_hub client against a Hub on the loopback interface."""

import argparse
import hashlib
import json
import shutil
import socket
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import HubServer
from huggingface_hub import ModelCard

from faceattr.errors import WeightsError
from faceattr.hub import BUNDLED, BUNDLED_NAMES
from faceattr.model import LightweightMTLNet224, ModelConfig, load_model
from faceattr.publishing import PublishError, connect, validate_card
from train import publish as publishing
from train.publish import check_folder, publish

# huggingface_hub 2.4 uploads LFS files through a parameter that httpx2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

ROOT = Path(__file__).resolve().parents[1]
REPO = "user/faces"
CARD = "---\nlicense: cc-by-4.0\npipeline_tag: image-classification\n---\n# Faces\n"
TINY = ModelConfig(sizes={"widths": (4, 4, 4, 4, 4, 4, 4), "hidden": 8})


def write_weights(folder: Path, seed: int, config: ModelConfig = TINY) -> None:
    """Fresh weights, and a report and a card that are theirs."""
    torch.manual_seed(seed)
    LightweightMTLNet224(config).save_pretrained(folder)
    describe(folder)


def describe(folder: Path) -> None:
    """A report and a card of the weights in a folder."""
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "report.json").write_text(json.dumps({"weights_sha256": digest}))
    (folder / "README.md").write_text(f"{CARD}\nSHA-256 {digest}\n")


@pytest.fixture
def folder(tmp_path):
    """A folder in order, with one figure and one file that is nobody's business."""
    path = tmp_path / "weights"
    write_weights(path, seed=1)
    (path / "figures").mkdir()
    (path / "figures" / "confusion.png").write_bytes(b"image")
    (path / "checkpoint.pt").write_bytes(b"private")
    return path


@pytest.fixture
def hub(monkeypatch):
    """A running Hub that this process's client can talk to."""
    with HubServer() as server:
        server.admit(monkeypatch)
        yield server


def send(hub, folder, repo_id=REPO, token=HubServer.token, **options):
    return publish(folder, repo_id, endpoint=hub.url, token=token, **options)


def test_publish_sends_exactly_the_checked_files_in_one_commit(hub, folder):
    result = send(hub, folder)
    names = {"README.md", "config.json", "model.safetensors", "report.json"}
    there = hub.repo(REPO).files(result.commit)
    assert set(there) == names | {"figures/confusion.png", ".gitattributes"}
    assert all(there[name] == (folder / name).read_bytes() for name in names)
    assert hub.asked("POST", "/commit/") == 1
    assert result.changed
    assert result.url == f"{hub.url}/{REPO}/tree/{result.commit}"


@pytest.fixture
def exported(folder, exported_weights):
    """The folder with other weights, and with their ONNX file."""
    shutil.copytree(exported_weights, folder, dirs_exist_ok=True)
    describe(folder)
    return folder


def test_an_onnx_file_goes_along_if_it_is_of_these_weights(hub, exported):
    folder = exported
    result = send(hub, folder)
    assert hub.repo(REPO).files(result.commit)["model.onnx"] == (folder / "model.onnx").read_bytes()
    write_weights(folder, seed=9, config=load_model(folder).config)
    with pytest.raises(WeightsError, match=r"another model\.safetensors.*`faceattr export`"):
        send(hub, folder)


@pytest.mark.parametrize("named", ["folder/with/these/files", "somebody/else", REPO])
def test_the_published_cards_snippet_loads_the_repository_itself(hub, folder, named):
    card = folder / "README.md"
    snippet = f'FacePipeline.from_pretrained("{named}")  # pin a commit'
    card.write_text(f'{card.read_text()}\n{snippet}\nor from_pretrained("FaceAttrNet")\n')
    before = card.read_text()
    result = send(hub, folder)
    sent = hub.repo(REPO).files(result.commit)["README.md"].decode()
    assert sent == before.replace(named, REPO)
    assert 'from_pretrained("FaceAttrNet")' in sent
    assert card.read_text() == before


def test_an_unchanged_folder_uploads_nothing(hub, folder):
    first = send(hub, folder)
    hub.requests.clear()
    second = send(hub, folder)
    assert (second.commit, second.changed) == (first.commit, False)
    assert hub.asked("PUT", "") == hub.asked("POST", "/commit/") == 0


def test_new_weights_make_a_new_commit_and_the_old_one_stays(hub, folder, tmp_path):
    first = send(hub, folder)
    old = (folder / "model.safetensors").read_bytes()
    write_weights(folder, seed=2)
    second = send(hub, folder)
    assert second.commit != first.commit
    repo = hub.repo(REPO)
    assert repo.files(first.commit)["model.safetensors"] == old
    assert repo.files("main")["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_a_figure_gone_here_is_deleted_there_but_others_files_stay(hub, folder):
    send(hub, folder)
    repo = hub.repo(REPO)
    repo.commit("main", repo.files() | {"notes.txt": b"theirs"})
    (folder / "figures" / "confusion.png").unlink()
    send(hub, folder)
    assert "figures/confusion.png" not in repo.files()
    assert repo.files()["notes.txt"] == b"theirs"


def test_an_onnx_file_gone_here_is_deleted_there(hub, exported):
    folder = exported
    send(hub, folder)
    assert "model.onnx" in hub.repo(REPO).files()
    (folder / "model.onnx").unlink()
    write_weights(folder, seed=2)
    send(hub, folder)
    assert "model.onnx" not in hub.repo(REPO).files()


def test_a_branch_is_created_from_main_and_main_stays_as_it_is(hub, folder):
    hub.add_repo(REPO)
    before = hub.repo(REPO).resolve("main")
    result = send(hub, folder, revision="trial")
    assert hub.repo(REPO).branches == {"main": before, "trial": result.commit}


def test_private_makes_a_private_repository_and_refuses_a_public_one(hub, folder):
    send(hub, folder, "user/secret", private=True)
    assert hub.repo("user/secret").private
    hub.add_repo(REPO)
    with pytest.raises(PublishError, match="exists and is public"):
        send(hub, folder, private=True)
    assert list(hub.repo(REPO).files()) == [".gitattributes"]


def test_weights_that_arrive_different_are_reported(hub, folder, tmp_path, monkeypatch):
    other = tmp_path / "other"
    write_weights(other, seed=3)

    def arrive_different(api, repo_id, name, **where):
        return str(other / name)

    monkeypatch.setattr("huggingface_hub.HfApi.hf_hub_download", arrive_different)
    with pytest.raises(PublishError, match=r"gives other answers .*'gender', 'age', 'race'"):
        send(hub, folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "README.md", "report.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(PublishError, match=f"lacks {name}"):
        check_folder(folder)


def test_a_report_of_other_weights_is_refused_before_anything_is_sent(hub, folder):
    (folder / "report.json").write_text(json.dumps({"weights_sha256": "0" * 64}))
    with pytest.raises(PublishError, match="the report describes other weights"):
        send(hub, folder)
    assert hub.requests == []


@pytest.mark.parametrize("text", ["[]", "{}", "not json"])
def test_a_report_without_the_weights_hash_is_refused(folder, text):
    (folder / "report.json").write_text(text)
    with pytest.raises(PublishError, match="weights_sha256"):
        check_folder(folder)


@pytest.mark.parametrize(
    ("text", "problem"),
    [("# Faces\n", "no metadata"), ("---\na: [\n---\n", "not valid"), ("---\n- a\n---\n", "dict")],
)
def test_a_card_with_bad_metadata_is_refused(folder, text, problem):
    (folder / "README.md").write_text(text)
    with pytest.raises(PublishError, match=problem):
        check_folder(folder)


def test_a_card_the_hub_refuses_is_explained(hub, folder):
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card.replace("image-classification", "[a, b]"))
    with pytest.raises(PublishError, match='"pipeline_tag" must be a string'):
        send(hub, folder)
    assert hub.repos == {}
    assert hub.asked("POST", "/api/repos/create") == 0


@pytest.mark.parametrize("name", BUNDLED_NAMES)
def test_the_repositorys_own_weights_are_ready_to_publish(hub, name):
    files = check_folder(BUNDLED / name)
    assert "figures/confusion.png" in files
    api = connect(REPO, endpoint=hub.url, token=hub.token)
    validate_card(api, files["README.md"])
    card = ModelCard.load(files["README.md"])
    assert [r.metric_name for r in card.data.eval_results] == [
        "Gender accuracy",
        "Age group accuracy",
        "Race accuracy",
    ]
    for number in ("4.1", "4.2", "4.3"):
        assert f"(report, Table {number})" in card.text


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ("license: freeware", '"license" must be one of'),
        ("tags: faces", '"tags" must be an array'),
        ("model-index: [{name: x, results: [{task: {type: y}}]}]", "not valid: .*model_index"),
    ],
)
def test_metadata_against_the_hubs_rules_is_refused_before_anything_is_made(
    hub, folder, metadata, said
):
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text(card.replace("license: cc-by-4.0", metadata))
    with pytest.raises(PublishError, match=said):
        send(hub, folder)
    assert hub.repos == {}


def test_a_card_of_other_weights_is_refused(folder):
    (folder / "README.md").write_text(CARD)
    with pytest.raises(PublishError, match=r"README\.md is not about these weights"):
        check_folder(folder)


@pytest.mark.parametrize("name", ["temperatures", "thresholds"])
def test_a_report_of_another_calibration_is_refused(folder, name):
    report, config = (json.loads((folder / f"{n}.json").read_text()) for n in ("report", "config"))
    (folder / "report.json").write_text(json.dumps({**report, name: config[name]}))
    check_folder(folder)
    changed = {**config[name], "age": 0.123}
    (folder / "report.json").write_text(json.dumps({**report, name: changed}))
    with pytest.raises(PublishError, match=rf"other {name} than config\.json"):
        check_folder(folder)


def test_without_a_token_nothing_is_sent(hub, folder):
    with pytest.raises(PublishError, match="no Hub token found.*hf auth login"):
        send(hub, folder, token=None)
    assert hub.requests == []


def test_an_unknown_token_is_explained(hub, folder):
    with pytest.raises(PublishError, match="does not accept this token.*settings/tokens"):
        send(hub, folder, token="hf_unknown")


def test_a_foreign_namespace_is_explained(hub, folder):
    with pytest.raises(PublishError, match="write permission for 'stranger'"):
        send(hub, folder, "stranger/faces")


@pytest.mark.parametrize("repo_id", ["faces", "a/b/c", "user/fa ces"])
def test_an_impossible_repository_name_is_refused(hub, folder, repo_id):
    with pytest.raises(PublishError, match="Repo id must|USER/NAME"):
        send(hub, folder, repo_id)
    assert hub.requests == []


def test_an_unreachable_hub_is_explained(hub, folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(PublishError, match="cannot be reached.*HF_ENDPOINT"):
            publish(folder, REPO, endpoint=endpoint, token="hf_any")


@pytest.mark.parametrize(
    ("status", "advice"),
    [(401, "settings/tokens"), (404, "spelling"), (412, "history"), (429, "Wait"), (500, "again")],
)
def test_a_refused_commit_says_what_to_do_and_what_the_hub_said(hub, folder, status, advice):
    hub.fail_next("POST", "/commit/", status)
    with pytest.raises(PublishError, match=rf"{REPO}: .*{status}.*{advice}") as caught:
        send(hub, folder)
    assert f"injected {status}" in str(caught.value)


STEPS = {
    "card check": ("POST", "/api/validate-yaml"),
    "repository": ("POST", "/api/repos/create"),
    "look": ("GET", "/api/models/"),
    "announcement": ("POST", "/preupload/"),
    "batch": ("POST", "/objects/batch"),
    "upload": ("PUT", "/lfs/"),
    "verification": ("POST", "/lfs-verify"),
    "commit": ("POST", "/commit/"),
    "download": ("GET", "/resolve/"),
}


@pytest.fixture
def patient(monkeypatch):
    """The waits of the client, noted instead of waited."""
    waited = []
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", waited.append)
    return waited


@pytest.mark.parametrize(
    ("step", "fault"),
    [
        *product(STEPS, [500, "cut"]),
        *product(["announcement", "upload", "commit"], [429, 401, 404]),
    ],
)
def test_a_fault_at_any_step_leaves_the_previous_state_and_the_next_run_ends_right(
    hub, folder, patient, step, fault
):
    old = send(hub, folder).commit
    before = hub.repo(REPO).files(old)
    write_weights(folder, seed=2)
    method, path = STEPS[step]
    if fault == "cut":
        hub.cut_next(method, path, times=50)
    else:
        hub.fail_next(method, path, fault, headers={"Retry-After": "7"}, times=50)
    with pytest.raises(PublishError, match="again|settings/tokens|spelling|Wait 7 seconds"):
        send(hub, folder)
    if step != "download":
        assert hub.repo(REPO).resolve("main") == old
    assert hub.repo(REPO).files(old) == before
    hub.heal()
    result = send(hub, folder)
    there = hub.repo(REPO).files("main")
    assert there["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert result.commit == hub.repo(REPO).resolve("main") != old
    assert len(hub.repo(REPO).commits) == 3


def test_an_upload_told_to_wait_waits_as_long_as_told_and_goes_on(hub, folder, patient):
    hub.fail_next("PUT", "/lfs/", 429, headers={"Retry-After": "7"})
    assert send(hub, folder).changed
    assert [7 <= seconds <= 9 for seconds in patient] == [True]


def test_an_upload_cut_off_in_the_middle_is_sent_again(hub, folder, patient):
    hub.cut_next("PUT", "/lfs/")
    assert send(hub, folder).changed
    # Weights and figure, and one of them again.
    assert hub.asked("PUT", "/lfs/") == 3


def test_a_commit_refused_for_now_says_how_long_to_wait(hub, folder):
    hub.fail_next("POST", "/commit/", 429, headers={"Retry-After": "41"}, times=20)
    with pytest.raises(PublishError, match="Wait 41 seconds, then run the same command again"):
        send(hub, folder)


def test_an_upload_cut_off_can_be_taken_up_again(hub, folder):
    hub.cut_next("POST", "/commit/")
    with pytest.raises(PublishError, match="connection to the Hub broke.*same command again"):
        send(hub, folder)
    assert list(hub.repo(REPO).files()) == [".gitattributes"]
    assert send(hub, folder).changed
    # Weights and figure, neither of them again.
    assert hub.asked("PUT", "/lfs/") == 2


def test_a_commit_whose_answer_was_lost_is_found_by_the_next_run(hub, folder):
    hub.cut_next("POST", "/commit/", after=0)
    with pytest.raises(PublishError, match="same command again"):
        send(hub, folder)
    result = send(hub, folder)
    assert not result.changed
    assert len(hub.repo(REPO).commits) == 2


def test_a_check_download_that_breaks_in_the_middle_is_resumed(hub, folder):
    hub.cut_next("GET", r"/resolve/\w+/model\.safetensors", after=1000)
    assert send(hub, folder).changed
    assert hub.asked("GET", r"/resolve/\w+/model\.safetensors") == 2


def test_a_commit_of_somebody_else_in_the_meantime_is_not_overwritten(hub, folder):
    send(hub, folder)
    write_weights(folder, seed=2)
    repo, taken = hub.repo(REPO), hub.take_fault

    def interfere(request):
        if "/preupload/" in request.path:
            repo.commit("main", repo.files() | {"notes.md": b"theirs"})
        return taken(request)

    hub.take_fault = interfere
    with pytest.raises(PublishError, match="somebody else committed"):
        send(hub, folder)
    assert repo.files()["notes.md"] == b"theirs"


def options(folder, **changes):
    parser = argparse.ArgumentParser()
    publishing.add_arguments(parser)
    return parser.parse_args([str(folder), "--repo-id", REPO, *changes.pop("flags", [])])


def test_dry_run_lists_files_and_sizes_and_needs_no_hub_or_token(hub, folder, caplog):
    caplog.set_level("INFO")
    assert publishing.run(options(folder, flags=["--dry-run"])) == 0
    size = f"{(folder / 'model.safetensors').stat().st_size:,}"
    assert any(line.split() == [size, "model.safetensors"] for line in caplog.messages)
    assert not any("checkpoint.pt" in line for line in caplog.messages)
    assert hub.requests == []


def test_an_interrupt_says_how_to_go_on(folder, monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(publishing, "publish", interrupt)
    assert publishing.run(options(folder)) == 130
    assert "Run the same command again" in capsys.readouterr().err


def command_line(hub, home, *arguments, token=HubServer.token):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=hub.environment(home, token),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_command_line_failure_is_one_message_without_a_traceback(hub, folder, tmp_path):
    done = command_line(
        hub, tmp_path / "home", "-m", "train", "publish", folder, "--repo-id", REPO, token=None
    )
    assert done.returncode == 1
    assert "error: no Hub token found" in done.stderr
    assert "Traceback" not in done.stderr


LOGITS = """
import sys
import numpy as np
import torch
from faceattr.pipeline import FacePipeline
model, revision, target = sys.argv[1:]
pipeline = FacePipeline.from_pretrained(model, revision=revision or None, detector="haar")
faces = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(7))
logits = pipeline.model(faces.to(memory_format=torch.channels_last))
np.savez(target, **{task: values.detach().numpy() for task, values in logits.items()})
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_round_trip_from_the_command_line_gives_equal_logits_bit_for_bit(hub, folder, tmp_path):
    write_weights(folder, seed=4, config=ModelConfig())
    home, before, after = tmp_path / "home", tmp_path / "before.npz", tmp_path / "after.npz"
    here = command_line(hub, home, "-c", LOGITS, folder, "", before)
    assert here.returncode == 0, here.stderr
    sent = command_line(hub, home, "-m", "train", "publish", folder, "--repo-id", REPO)
    assert sent.returncode == 0, sent.stderr
    repo = hub.repo(REPO)
    commit = repo.resolve("main")
    assert commit in sent.stderr
    # Newer weights on main, which do not even load: only the pinned commit may be read.
    repo.commit("main", repo.files() | {"model.safetensors": b"newer"})
    there = command_line(hub, tmp_path / "fresh", "-c", LOGITS, REPO, commit, after)
    assert there.returncode == 0, there.stderr

    with np.load(before) as expected, np.load(after) as loaded:
        assert set(expected) == set(loaded) == {"gender", "age", "race"}
        for task in expected:
            assert expected[task].tobytes() == loaded[task].tobytes()


def test_a_calibration_table_is_published_and_must_be_of_these_weights(folder):
    from audit_synthetic import table

    from faceattr.audit.calibration import CalibrationTable, write_table

    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    made = table(300)
    write_table(
        CalibrationTable(digest, made.source, made.true, made.probabilities), folder / "audit.json"
    )
    assert "audit.json" in check_folder(folder)
    write_table(made, folder / "audit.json")
    with pytest.raises(PublishError, match="audit-table"):
        check_folder(folder)
