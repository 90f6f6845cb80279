import pytest
from impasto.errors import SettingsError
from impasto.trainers.lora.targets import LoraShape


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"alpha": 0.0}, "alpha is 0"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"dropout": 1.0}, "dropout is 1"),
        ({"targets": "everything"}, "'everything'.*all linear"),
        ({"block_ranks": "triple: 1"}, "character 1, 'triple: 1'"),
    ],
)
def test_a_shape_that_no_lora_can_have_is_refused(change, named):
    with pytest.raises(SettingsError, match=named):
        LoraShape(**{"rank": 4, "alpha": 4.0, "targets": "attention"} | change)


@pytest.mark.parametrize(
    ("text", "double", "single"),
    [
        ("", [16, 16], [16, 16, 16]),
        ("double 0-1: 8; single 2: 4", [8, 8], [16, 16, 4]),
        ("double 0-1: 8; single 2: 4; rest: 0", [8, 8], [0, 0, 4]),
        (" SINGLE : 2 ;; double 1 , 0 - 0: 3; ", [3, 3], [2, 2, 2]),
        ("rest: 5", [5, 5], [5, 5, 5]),
    ],
)
def test_block_ranks_give_each_block_its_rank(text, double, single):
    ranks = LoraShape(16, 16.0, "attention", block_ranks=text).ranks(2, 3)
    assert [ranks[f"transformer_blocks.{index}"] for index in range(2)] == double
    assert [ranks[f"single_transformer_blocks.{index}"] for index in range(3)] == single


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("double 0-1: 8; triple 2: 4", "character 16, 'triple 2: 4'.*Write for example"),
        ("double 0-1", "character 1, 'double 0-1'"),
        ("double 0-1: -8", "character 1"),
        ("double 0,  x: 8", "character 1"),
        ("double 0, 3-1: 8", "character 10, '3-1'"),
        ("rest 0-1: 8", "character 6"),
        ("double: 8; double 1: 4", "character 19, 'double 1: 4'.*character 1"),
        ("rest: 8; rest: 4", "character 10.*character 1"),
        ("double 0: 8000", "character 11, the rank is 8000.*1024"),
        ("single 2: 4; double 1-2: 4", "character 21, there is no double block 2.*has 2, numbered 0 to 1"),
    ],
)
def test_a_mistake_in_block_ranks_is_shown_where_it_is(text, named):
    with pytest.raises(SettingsError, match=named):
        LoraShape(16, 16.0, "attention", block_ranks=text).ranks(2, 3)
