import math
import subprocess
import sys

import numpy
import pytest
import torch
from impasto.drawing.palette import BLUE, RUST, THEMES
from impasto.errors import TrainingError
from impasto.rendering import loss_plot as module
from impasto.rendering.loss_plot import loss_plot
from impasto.rendering.loss_series import Curve, by_sigma, metrics_of_loss_map, sigma_bins, trend
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


FULL = [{"step": 0, "held_out_loss": 0.9, "held_out_by_sigma": {"0.25": 1.0, "1": 0.8}}] + [
    row | {"grad_norm": 0.1, "sigma": [row["step"] / 40, 0.999]} for row in metrics(40, held_out_every=10)
]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_everything_that_a_run_measured_is_drawn_in_the_colours_of_the_theme(theme):
    picture = loss_plot(FULL, "run", "run-12345678", range(10, 41, 10), [20, 40], [Curve("before", metrics(60))], theme)
    drawn = colours(picture)
    expected = THEMES[theme]
    for colour in (expected.paper, expected.blue, expected.rust, expected.thin, expected.more[0], expected.ink):
        assert ImageColor.getrgb(colour) in drawn, colour
    assert picture.size == module.SIZE


def test_another_run_is_laid_over_and_makes_the_axis_longer():
    alone, beside = loss_plot(metrics(30), "run"), loss_plot(metrics(30), "run", others=[Curve("longer", metrics(90))])
    other = ImageColor.getrgb(THEMES["light"].more[0])
    assert other in colours(beside) and other not in colours(alone)
    blue = ImageColor.getrgb(BLUE)
    charts = [numpy.asarray(each)[250:] for each in (alone, beside)]  # without the legend
    ends = [numpy.nonzero((chart == blue).all(axis=-1))[1].max() for chart in charts]
    assert ends[1] < 0.5 * ends[0]


def test_a_run_that_measured_nothing_laid_over_another_changes_nothing_in_the_chart():
    alone = loss_plot(metrics(5), "run")
    assert loss_plot(metrics(5), "run", others=[Curve("new", [])]).tobytes() == alone.tobytes()


def test_the_best_checkpoint_is_told_only_where_there_is_a_choice(monkeypatch):
    said = []
    monkeypatch.setattr(module, "draw_text", lambda draw, place, text, *rest: said.append(text))
    loss_plot(metrics(40, held_out_every=10), "run")
    assert "best 0.0250 at step 40" in said[-1]
    loss_plot(metrics(10, held_out_every=10), "run")
    assert "best" not in said[-1]


def test_sigmas_are_counted_in_twentieths_with_the_mean_loss_of_their_steps():
    records = [{"step": 1, "loss": 0.2, "sigma": [0.01, 1.0]}, {"step": 2, "loss": 0.4, "sigma": [0.03]}]
    records += [{"step": 3, "loss": math.nan, "sigma": [0.5]}, {"step": 4, "loss": 1, "sigma": "x"}, {"step": 5}]
    counts, means = sigma_bins(records)
    assert counts[0] == 2 and counts[-1] == 1 and sum(counts) == 3
    assert means[0] == pytest.approx(0.3) and means[-1] == 0.2 and math.isnan(means[10])


def test_the_held_out_loss_of_each_sigma_is_read_and_what_is_no_number_left_out():
    records = [{"step": 0, "held_out_by_sigma": {"1": 0.8, "0.25": 0.5}}, {"step": 9, "held_out_by_sigma": {"1": "x"}}]
    assert by_sigma([*records, {"step": 10, "held_out_by_sigma": 3}]) == {0.25: ([0], [0.5]), 1.0: ([0], [0.8])}


def test_a_loss_map_of_numbers_or_tensors_is_read_from_step_one():
    assert metrics_of_loss_map({"loss": [0.5, torch.tensor(0.25)]}) == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 0.25},
    ]


@pytest.mark.parametrize("given", [None, {}, {"loss": 3}, {"loss": [object()]}])
def test_what_is_no_loss_map_is_refused(given):
    with pytest.raises(ValueError, match="LOSS_MAP"):
        metrics_of_loss_map(given)
