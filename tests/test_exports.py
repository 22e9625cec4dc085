"""What `import faceattr` offers: everything by name, nothing imported sooner than needed."""

import subprocess
import sys
from pathlib import Path

import pytest

import faceattr
from faceattr import errors

ROOT = Path(__file__).resolve().parents[1]


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "name",
    [
        *("FacePipeline", "FaceAttrNet", "FaceAttrNetLarge", "LightweightMTLNet224"),
        *("load_model", "FaceResult"),
        *("ImageDecodeError", "FaceBox", "Attribute", "to_pandas", "decode_image", "PublishError"),
    ],
)
def test_a_name_is_there_and_listed(name):
    assert getattr(faceattr, name).__name__ == name
    assert name in dir(faceattr)


def test_every_error_is_exported():
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, (errors.FaceAttrError, Warning)):
            assert getattr(faceattr, name) is kind


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'FacePipelines'"):
        faceattr.FacePipelines  # noqa: B018


def test_nothing_is_imported_before_it_is_asked_for():
    heavy = "{'torch', 'numpy', 'cv2', 'PIL'} & set(sys.modules)"
    assert run(f"import sys, faceattr; sys.exit(bool({heavy}))").returncode == 0
    results = "from faceattr import FaceResult, ImageDecodeError, FacePipeline"
    assert run(f"import sys; {results}; sys.exit('torch' in sys.modules)").returncode == 0


def test_without_pytorch_the_networks_say_how_to_get_it_and_the_rest_is_there():
    code = (
        "import sys; sys.modules['torch'] = None\nfrom faceattr import *\nimport faceattr\n"
        "FacePipeline\nimport inspect; inspect.getmembers(faceattr)\n"
        "try: faceattr.FaceAttrNet\nexcept ImportError as e: print(e)"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert "pip install '.[torch]'" in done.stdout


def test_type_checkers_see_what_is_exported(tmp_path):
    pytest.importorskip("mypy")
    used = tmp_path / "used.py"
    used.write_text(
        "from faceattr import FacePipeline, FaceResult, load_model\n"
        "faces: list[FaceResult] = FacePipeline.from_pretrained()('a.jpg')\n"
        "reveal_type(faces[0].age_range.label)\nreveal_type(load_model())\n"
    )
    command = [sys.executable, "-m", "mypy", "--no-error-summary", str(used)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    types = [line.partition("type is ")[2] for line in done.stdout.splitlines()]
    assert len(types) == 2, done.stdout
    assert "str" in types[0]
    assert "FaceAttributeModel" in types[1]
