"""Run folders: one per set of inputs, found again, and LoRA files that never overwrite another run's."""

import json
import os
import sys
import time
from pathlib import Path

import pytest
import torch
from impasto.errors import DiskError, NameRefused, TrainingError
from impasto.trainers.features.index import Features
from impasto.trainers.lora import file_formats as lora_files
from impasto.trainers.run import checkpoints, create, lock, publish
from impasto.trainers.run import folder as runs
from impasto.trainers.settings import Settings

from ...leftovers import of_another_machine

FEATURES = Features("", "abc")


@pytest.fixture(autouse=True)
def encoded(tmp_path_factory, monkeypatch):
    """A folder of features without pictures: a run takes no more of them than their key."""
    features = Features(str(tmp_path_factory.mktemp("features")), FEATURES.key)
    monkeypatch.setattr(sys.modules[__name__], "FEATURES", features)


def make_run(root, name="monet", settings=None, fingerprint="f1", weights="/models/flux.safetensors"):
    job = runs.Job(name, settings or Settings(), FEATURES.folder, FEATURES.key, weights, fingerprint)
    return create.create_run(root, job)


def save_checkpoint(run, step, value):
    lora = {"transformer.x.lora_A.weight": torch.full((2, 2), float(value))}
    return checkpoints.save(run.path / "checkpoints", step, lora, made_by(run, step), {"optimizer": {}})


def made_by(run, step):
    return {"impasto_run": run.id, "impasto_step": str(step)}


def layer(rank=2, alpha=3.0):
    """A LoRA of one layer that all formats know."""
    name = "transformer.transformer_blocks.0.attn.to_out.0"
    state = {f"{name}.lora_A.weight": torch.randn(rank, 128), f"{name}.lora_B.weight": torch.randn(128, rank)}
    return state | {f"{name}.alpha": torch.tensor(alpha)}


def written(folder):
    """When each file of a folder was written, and which file it is."""
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir()}


def finish(run):
    steps = runs.Job.read(run).settings.steps
    (run.path / "status.json").write_text(json.dumps({"state": "finished", "total": steps, "step": steps}))


def first_value(path):
    from safetensors.torch import load_file

    return load_file(path)["transformer.x.lora_A.weight"][0, 0].item()


def no_links(*_):
    raise OSError("not on this file system")


def test_the_same_inputs_are_the_same_run_wherever_the_model_lies(tmp_path):
    assert make_run(tmp_path) == make_run(tmp_path, weights="/elsewhere/flux.safetensors")


def test_other_settings_or_another_model_are_another_run(tmp_path):
    ids = {
        make_run(tmp_path).id,
        make_run(tmp_path, settings=Settings(rank=8)).id,
        make_run(tmp_path, fingerprint="f2").id,
    }
    assert len(ids) == 3


def test_other_steps_are_the_same_run_while_the_learning_rate_is_constant(tmp_path):
    short, long = (make_run(tmp_path, settings=Settings(steps=steps)) for steps in (100, 200))
    assert short == long


def test_the_job_is_read_back_as_it_was_written(tmp_path):
    run = make_run(tmp_path, settings=Settings(seed=2**63 + 5))
    job = runs.Job.read(run)
    assert job.settings == Settings(seed=2**63 + 5) and job.features_folder == FEATURES.folder and job.name == "monet"


@pytest.mark.parametrize("content", [b'weights = "C:\\models"', b'name = "Mus\xe9e"'])
def test_settings_spoilt_by_hand_are_named_with_what_to_do(tmp_path, content):
    run = make_run(tmp_path)
    (run.path / "settings.toml").write_bytes(content)
    with pytest.raises(TrainingError, match=r"settings.toml is not TOML .*Write paths with / .*UTF-8"):
        runs.Job.read(run)


@pytest.mark.parametrize("name", ["../monet", "/etc", "a/b", "", "..", "CON"])
def test_a_name_that_leaves_the_root_is_refused(tmp_path, name):
    with pytest.raises(NameRefused):
        make_run(tmp_path, name)
    assert not any(tmp_path.iterdir())


def test_a_folder_of_loras_does_not_make_its_name_one_for_a_run(tmp_path):
    (tmp_path / "Monet (v2)").mkdir()
    with pytest.raises(NameRefused, match="plain name"):
        publish.lora_folder(tmp_path, "Monet (v2)")
    assert publish.lora_folder(tmp_path, "मोने") == tmp_path / "मोने"


def test_a_name_that_a_symbolic_link_leads_out_of_the_root_is_refused(tmp_path):
    root, outside = tmp_path / "loras", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    os.symlink(outside, root / "monet")
    run = make_run(tmp_path / "runs")
    save_checkpoint(run, 10, 1)
    with pytest.raises(NameRefused, match="outside"):
        publish.publish(run, "monet", root)
    assert not any(outside.iterdir())


def test_an_unknown_run_is_answered_with_the_runs_there_are(tmp_path):
    run = make_run(tmp_path)
    with pytest.raises(TrainingError, match=run.id):
        runs.find_run(tmp_path, "monet-00000000")


def test_the_latest_run_is_the_one_trained_last_that_continues_no_other(tmp_path):
    older, newer = make_run(tmp_path), make_run(tmp_path, settings=Settings(rank=8))
    save_checkpoint(newer, 10, 1)
    longer = create.continue_run(tmp_path, newer, 5, "/models/flux.safetensors", "f1")
    for run in (older, newer, longer):
        finish(run)
        time.sleep(0.02)  # longer than a tick of the file system's clock
    never = make_run(tmp_path, settings=Settings(rank=4))
    assert runs.list_runs(tmp_path) == [longer.id, newer.id, older.id, never.id]
    assert runs.find_run(tmp_path, runs.LATEST) == newer
    assert runs.state_of(tmp_path, runs.LATEST) == runs.state_of(tmp_path, newer.id)
    assert runs.state_of(tmp_path, newer.id) != runs.state_of(tmp_path, older.id)


def test_a_run_that_failed_before_its_first_step_is_not_the_latest(tmp_path):
    trained, failed = make_run(tmp_path), make_run(tmp_path, settings=Settings(rank=8))
    (failed.path / "metrics.jsonl").write_text('{"step": 0, "held_out_loss": 0.3}\n')
    for run in (trained, failed):
        (run.path / "status.json").write_text(json.dumps({"state": "failed"}))
        time.sleep(0.02)
    with pytest.raises(TrainingError, match=f"None of the runs.*by its name: {failed.id}, {trained.id}"):
        runs.find_run(tmp_path, runs.LATEST)
    (trained.path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.3}\n')
    assert runs.find_run(tmp_path, runs.LATEST) == trained
    save_checkpoint(failed, 1, 1)
    assert runs.find_run(tmp_path, runs.LATEST) == failed


def test_asking_for_a_run_again_writes_nothing(tmp_path):
    (Path(FEATURES.folder) / "dataset.toml").write_text("[[datasets]]\n")
    run = make_run(tmp_path)
    before = written(run.path)
    assert make_run(tmp_path) == run and len(before) == 2 and written(run.path) == before


def test_the_latest_of_no_runs_is_told_to_be_none(tmp_path):
    with pytest.raises(TrainingError, match="No run has been started yet"):
        runs.find_run(tmp_path, runs.LATEST)


def test_an_unfinished_run_publishes_its_checkpoints_but_no_final_lora(tmp_path):
    run = make_run(tmp_path / "runs")
    save_checkpoint(run, 10, 1)
    assert publish.publish(run, "monet", tmp_path / "loras") is None
    assert sorted(path.name for path in (tmp_path / "loras" / "monet").iterdir()) == ["monet-000010.safetensors"]


def test_a_second_run_of_the_same_name_keeps_the_first_ones_files(tmp_path):
    loras = tmp_path / "loras"
    first, second = make_run(tmp_path / "runs"), make_run(tmp_path / "runs", settings=Settings(rank=8))
    for value, run in enumerate((first, second)):
        save_checkpoint(run, 10, value)
        finish(run)
        assert first_value(publish.publish(run, "monet", loras)) == value
    assert first_value(loras / "monet" / f"{first.id}-000010.safetensors") == 0
    names = ("monet", "monet-000010", f"{first.id}-000010", f"{second.id}-000010")
    assert {path.stem for path in (loras / "monet").glob("*.safetensors")} == set(names)


@pytest.mark.parametrize("linked", [True, False], ids=["links", "copies"])
def test_step_names_are_one_runs_and_the_finished_lora_stays_until_another_finishes(tmp_path, monkeypatch, linked):
    if not linked:
        monkeypatch.setattr(os, "link", no_links)
    folder = tmp_path / "loras" / "monet"
    first, cancelled, last = (make_run(tmp_path / "runs", settings=Settings(rank=rank, steps=10)) for rank in (1, 2, 3))
    for run, steps in ((first, (5, 10)), (cancelled, (7,)), (last, (4, 10))):
        for step in steps:
            save_checkpoint(run, step, step)
        if run != cancelled:
            finish(run)

    def published(run):
        publish.publish(run, "monet", folder.parent)
        return {path.stem for path in folder.glob("*.safetensors")}

    kept = {"monet", f"{first.id}-000010"}
    assert published(first) == kept | {"monet-000005", "monet-000010"}
    kept |= {f"{first.id}-000005"}
    assert published(cancelled) == kept | {"monet-000007"}
    assert lora_files.read_metadata(folder / "monet.safetensors") == made_by(first, 10)
    kept |= {f"{cancelled.id}-000007", f"{last.id}-000010"}
    assert published(last) == kept | {"monet-000004", "monet-000010"}
    assert lora_files.read_metadata(folder / "monet.safetensors") == made_by(last, 10)
    for run, step in ((first, 5), (first, 10), (cancelled, 7)):
        file = folder / f"{run.id}-{step:06d}.safetensors"
        assert lora_files.read_metadata(file) == made_by(run, step) and first_value(file) == step


def test_a_step_file_that_was_not_trained_here_stays(tmp_path):
    from safetensors.torch import save_file

    run, folder = make_run(tmp_path / "runs"), tmp_path / "loras" / "monet"
    folder.mkdir(parents=True)
    save_file({"transformer.x.lora_A.weight": torch.zeros(2, 2)}, folder / "monet-000003.safetensors")
    save_checkpoint(run, 10, 1)
    publish.publish(run, "monet", folder.parent)
    assert {path.name for path in folder.iterdir()} == {"monet-000003.safetensors", "monet-000010.safetensors"}


def test_each_finished_lora_has_a_name_that_no_other_content_gets(tmp_path):
    """Another run, the same run with more steps, and back: what a loader keeps under a name stays true."""
    loras, held = tmp_path / "loras", {}
    for rank, steps in ((16, 10), (8, 10), (16, 20), (8, 10)):
        run = make_run(tmp_path / "runs", settings=Settings(rank=rank, steps=steps))
        if steps not in run.checkpoints():
            save_checkpoint(run, steps, rank + steps)
        finish(run)
        final = publish.publish(run, "monet", loras)
        assert final.name == f"{run.id}-{steps:06d}.safetensors"
        assert first_value(final) == first_value(loras / "monet" / "monet.safetensors") == rank + steps
        held[final] = rank + steps
    assert len(held) == 3 and all(first_value(path) == value for path, value in held.items())


def test_loras_that_were_trained_elsewhere_are_all_kept(tmp_path):
    from safetensors.torch import save_file

    run, folder = make_run(tmp_path / "runs"), tmp_path / "loras" / "monet"
    folder.mkdir(parents=True)
    save_checkpoint(run, 10, 1)
    finish(run)
    for metadata in (None, {"impasto_run": "../../escaped", "impasto_step": "10"}, {"impasto_run": "a", "x": "b"}):
        save_file({"transformer.x.lora_A.weight": torch.zeros(2, 2)}, folder / "monet.safetensors", metadata)
        publish.publish(run, "monet", folder.parent)
    assert len(list(folder.glob("monet.????????.safetensors"))) == 3
    assert not list(tmp_path.glob("escaped*"))


@pytest.mark.parametrize("format", ["diffusers", "kohya", "comfyui"])
def test_publishing_twice_changes_nothing(tmp_path, monkeypatch, format):
    run = make_run(tmp_path / "runs")
    checkpoints.save(run.path / "checkpoints", 10, layer(), made_by(run, 10), {"optimizer": {}})
    finish(run)
    final = publish.publish(run, "monet", tmp_path / "loras", format)
    before = written(final.parent)
    monkeypatch.delattr(lora_files, "export")
    assert publish.publish(run, "monet", tmp_path / "loras", format) == final and written(final.parent) == before


def test_publishing_twice_changes_nothing_where_files_cannot_be_linked(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", no_links)
    run = make_run(tmp_path / "runs")
    save_checkpoint(run, 10, 1)
    finish(run)
    final = publish.publish(run, "monet", tmp_path / "loras")
    before = written(final.parent)
    assert publish.publish(run, "monet", tmp_path / "loras") == final and written(final.parent) == before


def test_what_was_left_half_written_is_cleared_away_once_nobody_can_be_writing_it(tmp_path, monkeypatch):
    run, folder = make_run(tmp_path / "runs"), tmp_path / "loras" / "monet"
    folder.mkdir(parents=True)
    torso, link = (of_another_machine(folder / f"monet-{name}.safetensors") for name in ("torso", "link"))
    torso.write_bytes(b"half")
    checkpoint = save_checkpoint(run, 10, 1).folder / checkpoints.ADAPTER_FILE
    os.utime(checkpoint, (0, 0))  # trained long ago
    os.link(checkpoint, link)
    publish.publish(run, "monet", folder.parent)
    assert torso.exists() and link.exists()  # as far as can be seen, another server is publishing
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    publish.publish(run, "monet", folder.parent)
    assert [path.name for path in folder.iterdir()] == ["monet-000010.safetensors"]


class Held:
    """Files that another program holds, refused as Windows refuses it: they cannot be replaced or removed.

    Args:
        number: Windows' own, of the error.
        movable: whether they can at least be renamed, as files that are mapped and no longer open.
    """

    def __init__(self, monkeypatch, number: int, movable: bool) -> None:
        self.files: set[Path] = set()
        replace, unlink = os.replace, os.unlink

        def refuse(path) -> None:
            if Path(path) in self.files:
                error = OSError(22 if number == 1224 else 13, "in use", str(path))
                error.winerror = number
                raise error

        def replacing(source, target):
            refuse(target)
            if not movable:
                refuse(source)
            replace(source, target)
            self.files.discard(Path(source))  # it is held under its new name, which nothing here asks for

        def unlinking(path, **named):
            refuse(path)
            unlink(path, **named)

        monkeypatch.setattr(os, "replace", replacing)
        monkeypatch.setattr(os, "unlink", unlinking)


@pytest.mark.parametrize("movable", [True, False], ids=["mapped", "open"])
@pytest.mark.parametrize("number", [5, 32, 1224])
def test_a_lora_that_comfyui_holds_fails_no_run_and_gets_its_name_later(tmp_path, monkeypatch, number, movable):
    folder, told = tmp_path / "loras" / "monet", []
    first, second = (make_run(tmp_path / "runs", settings=Settings(rank=rank, steps=10)) for rank in (1, 2))
    for value, run in enumerate((first, second)):
        for step in (5, 10):
            save_checkpoint(run, step, 10 * value + step)
        finish(run)
    publish.publish(first, "monet", folder.parent)
    held = Held(monkeypatch, number, movable)
    held.files |= set(folder.glob("*.safetensors"))

    final = publish.publish(second, "monet", folder.parent, tell=told.append)
    assert first_value(final) == 20 and lora_files.read_metadata(final) == made_by(second, 10)
    kept = {(first_value(path), path.name == "monet.safetensors") for path in folder.glob("*.safetensors")}
    assert {value for value, _ in kept} == {5, 10, 15, 20}  # every LoRA of both runs
    named = [text for text in told if str(folder / "monet.safetensors") in text]
    assert named and all("in use" in text and final.name in text and "restart it" in text for text in named)

    held.files.clear()
    told.clear()
    assert publish.publish(second, "monet", folder.parent, tell=told.append) == final and not told
    assert first_value(folder / "monet.safetensors") == first_value(folder / "monet-000010.safetensors") == 20
    assert {first_value(path) for path in folder.glob("*.safetensors")} == {5, 10, 15, 20}


def test_a_folder_that_may_not_be_written_to_is_still_told(tmp_path, monkeypatch):
    run = make_run(tmp_path / "runs")
    save_checkpoint(run, 10, 1)
    publish.publish(run, "monet", tmp_path / "loras")
    save_checkpoint(run, 20, 2)

    def refused(*_):
        raise PermissionError(13, "Permission denied", str(tmp_path / "loras" / "monet" / "x"))

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(DiskError, match="has no permission"):
        publish.publish(run, "monet", tmp_path / "loras")


@pytest.mark.parametrize("where", ["rename", "unlink"])
def test_a_checkpoint_whose_lora_comfyui_holds_is_dropped_later(tmp_path, monkeypatch, caplog, where):
    run = make_run(tmp_path)
    for step in (10, 20, 30):
        checkpoints.mark_validated(save_checkpoint(run, step, step).folder)
    folder, real = run.path / "checkpoints", getattr(os, where)

    def refused(path, *others, **named):
        if str(path).endswith(("step-000010", checkpoints.ADAPTER_FILE)):
            error = PermissionError(13, "in use", str(path))
            error.winerror = 32
            raise error
        return real(path, *others, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, where, refused)
        checkpoints.prune(folder, 30, keep=2, best=None)
    assert "step-000010 is in use, and is removed later" in caplog.text
    assert max(checkpoints.found(folder)) == 30
    checkpoints.prune(folder, 30, keep=2, best=None)
    assert set(checkpoints.found(folder)) == {20, 30}


def test_a_checkpoint_written_anew_is_published_anew(tmp_path):
    run = make_run(tmp_path / "runs")
    for value in (1, 2):
        checkpoints.save(run.path / "checkpoints", 10, layer(alpha=value), made_by(run, 10), {"optimizer": {}})
        finish(run)
        final = publish.publish(run, "monet", tmp_path / "loras", "kohya")
    assert alpha_of(final) == alpha_of(final.with_name("monet.safetensors")) == 2


def first_key(path):
    from safetensors.torch import load_file

    return next(iter(load_file(path)))


def alpha_of(path):
    from safetensors.torch import load_file

    return next(value.item() for key, value in load_file(path).items() if key.endswith(".alpha"))


@pytest.mark.parametrize("format", ["diffusers", "kohya"])
def test_a_continued_run_leaves_the_files_of_the_one_before_it_as_they_are(tmp_path, format):
    root, loras = tmp_path / "runs", tmp_path / "loras"
    run = make_run(root, settings=Settings(steps=10))
    checkpoints.save(run.path / "checkpoints", 10, layer(), made_by(run, 10), {"optimizer": {}})
    finish(run)
    first = publish.publish(run, "monet", loras, format)
    before = written(first.parent)
    longer = create.continue_run(root, run, 5, "/models/flux.safetensors", "f1")
    checkpoints.save(longer.path / "checkpoints", 15, layer(), made_by(longer, 15), {"optimizer": {}})
    finish(longer)
    for _ in range(2):
        second = publish.publish(longer, "monet", loras, format)
    assert (first.name, second.name) == (f"{run.id}-000010.safetensors", f"{longer.id}-000015.safetensors")
    files = {path.name for path in first.parent.glob("*.safetensors")}
    assert files == {first.name, second.name, *(f"monet{step}.safetensors" for step in ("", "-000010", "-000015"))}
    after = written(first.parent)
    assert all(after[name] == before[name] for name in (first.name, "monet-000010.safetensors"))


def test_metrics_keep_the_last_word_on_each_step_and_leave_torn_lines_out(tmp_path):
    run = make_run(tmp_path)
    (run.path / "metrics.jsonl").write_text(
        '{"step": 2, "loss": 1}\n{"step": 1, "loss": 3}\n{"step": 2, "loss": 2}\n{"st'
    )
    assert run.metrics() == [{"step": 1, "loss": 3}, {"step": 2, "loss": 2}]


def test_a_trainer_waits_for_the_one_before_it_and_gives_up_when_asked_to(tmp_path):
    run = make_run(tmp_path)
    with (
        lock.sole_trainer(run, lambda: False),
        pytest.raises(TrainingError, match="Another trainer"),
        lock.sole_trainer(run, lambda: True),
    ):
        pass
    with lock.sole_trainer(run, lambda: True):
        pass


def test_what_a_killed_process_left_half_written_is_no_checkpoint(tmp_path):
    run = make_run(tmp_path)
    save_checkpoint(run, 10, 1)
    torso = run.path / "checkpoints" / ".partial-12345678-step-000020"
    torso.mkdir()
    assert checkpoints.latest(run.path / "checkpoints").step == 10


def test_a_lora_is_published_in_the_format_that_was_asked_for_and_does_the_same(tmp_path):
    from safetensors.torch import load_file

    run = make_run(tmp_path / "runs")
    state = layer()
    checkpoints.save(run.path / "checkpoints", 10, state, made_by(run, 10), {"optimizer": {}})
    finish(run)
    final = publish.publish(run, "monet", tmp_path / "loras", "kohya")
    assert all(key.startswith("lora_unet_double_blocks_0_") for key in load_file(final))
    assert lora_files.read_metadata(final)["impasto_run"] == run.id
    read = lora_files.read(final)
    assert all(torch.equal(read[key], state[key]) for key in state)
    assert (final.parent / "monet.settings.toml").is_file()


def test_the_finished_lora_lies_beside_the_settings_that_made_it(tmp_path):
    run = make_run(tmp_path / "runs")
    save_checkpoint(run, 10, 1)
    finish(run)
    (run.path / "workflow.json").write_text('{"nodes": []}')
    folder = publish.publish(run, "monet", tmp_path / "loras").parent
    assert (folder / "monet.settings.toml").read_bytes() == (run.path / "settings.toml").read_bytes()
    assert (folder / "monet.workflow.json").read_text() == '{"nodes": []}'


def test_another_format_replaces_the_runs_own_files_and_leaves_no_second_copy(tmp_path):
    run = make_run(tmp_path / "runs")
    checkpoints.save(run.path / "checkpoints", 10, layer(), made_by(run, 10), {"optimizer": {}})
    finish(run)
    for format, prefix in (("diffusers", "transformer."), ("kohya", "lora_unet_"), ("diffusers", "transformer.")):
        final = publish.publish(run, "monet", tmp_path / "loras", format)
        assert {path.stem for path in final.parent.glob("*.safetensors")} == {"monet", "monet-000010", final.stem}
        assert all(first_key(path).startswith(prefix) for path in final.parent.glob("*.safetensors"))


def test_a_folder_that_only_looks_like_a_checkpoint_is_none(tmp_path):
    run = make_run(tmp_path)
    save_checkpoint(run, 8, 1)
    (run.path / "checkpoints" / "step-000009 (copy)").mkdir()
    assert list(run.checkpoints()) == [8] and checkpoints.latest(run.path / "checkpoints").step == 8
