import math
import subprocess
import sys

import pytest
from impasto.drawing.palette import BLUE, RUST
from impasto.errors import TrainingError
from impasto.rendering import loss_plot as module
from impasto.rendering.loss_plot import loss_plot, trend
from PIL import ImageColor


def metrics(count, loss=lambda step: 1 / step, held_out_every=0):
    rows = [{"step": n, "loss": loss(n), "learning_rate": 1e-4, "seconds": 0.1} for n in range(1, count + 1)]
    for row in rows:
        if held_out_every and row["step"] % held_out_every == 0:
            row["held_out_loss"] = row["loss"]
    return rows


def colours(picture):
    return {color for _, color in picture.getcolors(picture.width * picture.height)}


def test_the_trend_and_the_held_out_loss_are_drawn_in_their_colours():
    with_held_out = colours(loss_plot(metrics(50, held_out_every=10), "run"))
    without = colours(loss_plot(metrics(50), "run"))
    assert ImageColor.getrgb(BLUE) in with_held_out and ImageColor.getrgb(RUST) in with_held_out
    assert ImageColor.getrgb(BLUE) in without and ImageColor.getrgb(RUST) not in without


def test_the_base_models_held_out_loss_lies_within_the_axes():
    rows = [{"step": 0, "held_out_loss": 0.3}, *metrics(8, lambda step: 0.5, held_out_every=8)]
    picture = loss_plot(rows, "run")
    chart = picture.crop((0, picture.height // 4, picture.width, picture.height))  # without the legend
    points = [at % chart.width for at, color in enumerate(chart.getdata()) if color == ImageColor.getrgb(RUST)]
    assert 0.06 < min(points) / chart.width < 0.09  # the axes begin at 0.075


def test_the_picture_has_the_size_that_the_node_tells():
    assert loss_plot(metrics(3), "run").size == (1600, 1000)


def test_a_loss_that_is_not_finite_does_not_spoil_the_rest():
    rows = metrics(20)
    assert loss_plot([*rows, {"step": 21, "loss": math.nan}], "run").tobytes() == loss_plot(rows, "run").tobytes()


@pytest.mark.parametrize(
    "rows", [metrics(1), [{"step": 0, "held_out_loss": 0.7}, *metrics(2)], metrics(30, lambda n: 0.5)]
)
def test_the_shortest_and_flattest_runs_have_a_plot(rows):
    assert ImageColor.getrgb(BLUE) in colours(loss_plot(rows, "run"))


@pytest.mark.parametrize("rows", [[], [{"step": 0, "held_out_loss": 0.7}], [{"step": 1, "loss": math.inf}]])
def test_a_run_without_a_measured_step_says_what_to_do(rows):
    with pytest.raises(TrainingError, match=r"'gardens' has no measured step.*train"):
        loss_plot(rows, "gardens")


def test_a_steep_run_is_drawn_on_a_logarithmic_axis_and_a_flat_one_is_not(monkeypatch):
    scales = []
    draw = module._draw_losses

    def noting(axes, *rest):
        draw(axes, *rest)
        scales.append(axes.get_yscale())

    monkeypatch.setattr(module, "_draw_losses", noting)
    loss_plot(metrics(200, lambda step: 100 * math.exp(-step / 20)), "steep")
    loss_plot(metrics(200, lambda step: 0.6 + 0.4 * math.exp(-step / 20)), "flat")
    assert scales == ["log", "linear"]


def test_the_trend_of_a_straight_line_is_that_line_away_from_its_ends():
    values = [float(n) for n in range(200)]
    assert trend(values, 5)[50:150] == pytest.approx(
        values[50:150], abs=0.01
    )  # an ordinary moving average would lag by 5


def test_the_trend_of_one_value_is_that_value():
    assert trend([0.25], 10) == [0.25]


def test_importing_the_module_does_not_import_matplotlib():
    code = "import sys; sys.path.insert(0, 'tests'); import conftest, impasto.rendering.loss_plot as plot; "
    code += "sys.exit('matplotlib' in sys.modules)"
    repository = module.__file__.rsplit("rendering", 1)[0]
    assert subprocess.run([sys.executable, "-c", code], cwd=repository, timeout=60, check=False).returncode == 0
