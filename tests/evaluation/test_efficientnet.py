"""EfficientNet-Lite0 from the package that carries its weights, where it is installed; what is refused, everywhere."""

import pickle

import numpy
import pytest
from impasto.errors import ModelError
from impasto.evaluation import efficientnet
from impasto.evaluation.calibration import calibrate
from PIL import Image

from .test_judging import ROWS, SET, scenes, set_of

installed = pytest.mark.skipif(efficientnet.weights_file() is None, reason=f"{efficientnet.PACKAGE} is not installed")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of that name with a file to be written, ahead of any that is installed."""
    models = tmp_path / efficientnet.PACKAGE / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").write_text("raise AssertionError('its code was run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    return models / "weights.pth"


class Code:
    """What a pickle may hold: a call that is made while it is read."""

    def __reduce__(self):
        return pytest.fail, ("code in the file was run",)


def test_without_the_package_there_is_no_network(monkeypatch):
    monkeypatch.setattr(efficientnet, "PACKAGE", "impasto_has_no_such_package")
    assert efficientnet.weights_file() is None
    with pytest.raises(ModelError, match="impasto_has_no_such_package is not installed"):
        efficientnet.statistics([Image.new("RGB", (64, 64))])


@pytest.mark.parametrize("content", [b"", b"no weights", pickle.dumps(Code()), pickle.dumps({"a": 1})])
def test_a_file_with_anything_but_the_tensors_is_refused_and_nothing_in_it_runs(package, content):
    package.write_bytes(content)
    assert efficientnet.weights_file() == package
    with pytest.raises(ModelError, match="does not hold EfficientNet-Lite0's weights"):
        efficientnet.statistics([Image.new("RGB", (64, 64))])


def test_weights_of_another_network_are_refused_by_their_shapes(package):
    import torch

    torch.save({"_blocks.15._project_conv.weight": torch.zeros(320, 960, 1, 1)}, package)
    with pytest.raises(ModelError, match="does not hold"):
        efficientnet.read(package)


@installed
@pytest.mark.parametrize("size", [(1, 1), (40, 700), (128, 128)])
def test_pictures_of_any_size_have_as_many_finite_numbers(size):
    rows = efficientnet.statistics([Image.effect_noise(size, 60).convert("RGB")])
    assert rows.shape == (1, 384) and rows.dtype == numpy.float32 and numpy.isfinite(rows).all()


@installed
def test_a_real_network_tells_painted_styles_apart_and_not_pictures_of_one_style():
    prompts = [row // 2 for row in range(ROWS)]
    base = efficientnet.statistics(scenes(0, ROWS, "plain"))
    assert calibrate(base, prompts, efficientnet.statistics(set_of())).auc > 0.9
    assert calibrate(base, prompts, efficientnet.statistics(scenes(1000, SET, "plain"))).auc < 0.85
