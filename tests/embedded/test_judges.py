"""Judges of pictures: fitted on decoded pairs they tell the finishes and the scenes of others apart."""

import numpy as np
import pytest
import torch
from impasto.embedded import judges
from impasto.embedded.autoencoder_weights import autoencoder_weights
from impasto.embedded.paintings import FINISHES, paint
from impasto.embedded.taesd import Autoencoder
from impasto.embedded.train_decoder import round_trips
from impasto.embedded.training_pictures import HELD_OUT, LEAST_STROKE, scene_of

FITTED, JUDGED = range(96), range(HELD_OUT, HELD_OUT + 32)


@pytest.fixture(scope="module")
def decoded():
    """finish -> round trips of the scenes to fit on, and of those to judge."""
    model = Autoencoder().to(memory_format=torch.channels_last)
    model.load_state_dict(autoencoder_weights())

    def pictures(finish, indices):
        painted = [np.asarray(paint(scene_of(index), finish, 128, 128, LEAST_STROKE)) for index in indices]
        return round_trips(model, np.stack(painted))

    return {finish: (pictures(finish, FITTED), pictures(finish, JUDGED)) for finish in FINISHES}


def of_both(decoded, which):
    pixels = np.concatenate([decoded[finish][which] for finish in FINISHES])
    return pixels, [finish for finish in FINISHES for _ in decoded[finish][which]]


def test_decoded_pairs_of_other_scenes_are_told_apart(decoded):
    judge = judges.fit(judges.texture, *of_both(decoded, 0))
    assert judge.accuracy(*of_both(decoded, 1)) >= 0.98


def test_the_genre_of_other_scenes_is_found_in_either_finish(decoded):
    judge = judges.fit(judges.thumbnail, decoded["plain"][0], [scene_of(index).kind for index in FITTED])
    for finish in FINISHES:
        assert judge.accuracy(decoded[finish][1], [scene_of(index).kind for index in JUDGED]) >= 0.8


def test_labels_dealt_at_random_are_not_found(decoded):
    pixels, labels = of_both(decoded, 0)
    dealt = [labels[index] for index in np.random.default_rng(0).permutation(len(labels))]
    judge = judges.fit(judges.texture, pixels, dealt)
    assert 0.2 < judge.accuracy(*of_both(decoded, 1)) < 0.8


def test_probabilities_are_of_all_labels_and_sum_to_one(decoded):
    judge = judges.fit(judges.texture, *of_both(decoded, 0))
    shares = judge.probabilities(decoded["plain"][1])
    assert judge.labels == ("impressionist", "plain") and shares.shape == (len(JUDGED), 2)
    assert torch.allclose(shares.sum(1), torch.ones(len(JUDGED)), atol=1e-5)


def test_a_judge_read_from_its_file_gives_the_same_verdicts(decoded, tmp_path):
    fitted = {"finish": judges.fit(judges.texture, *of_both(decoded, 0))}
    judges.save(tmp_path / "judges.safetensors", fitted, {"script": "a test"})
    read = judges.load(tmp_path / "judges.safetensors")
    assert read.keys() == fitted.keys() and read["finish"].labels == fitted["finish"].labels
    pixels = decoded["plain"][1]
    assert torch.equal(read["finish"].probabilities(pixels), fitted["finish"].probabilities(pixels))


def test_pictures_of_several_shapes_have_as_many_features():
    for shape in ((128, 128, 3), (96, 160, 3)):
        pixels = np.random.default_rng(0).integers(0, 255, (2, *shape), dtype=np.uint8)
        assert judges.texture(pixels).shape == (2, 180)
        assert judges.thumbnail(pixels).shape == (2, 768)


def test_one_label_alone_cannot_be_judged():
    with pytest.raises(ValueError, match="two kinds"):
        judges.fit(judges.texture, np.zeros((2, 64, 64, 3), dtype=np.uint8), ["plain", "plain"])
