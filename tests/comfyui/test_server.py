"""What all other tests on a real server rest on: the pack loads; prompts run, are cached, fail and stop as reported."""

import threading
import time

import pytest
from impasto.setup.serving import ComfyServer, Interrupted, NodeFailed, PromptRefused, ServerFailed

BLUE = 255


def picture(color: int = BLUE, side: int = 64) -> dict:
    """A prompt that makes an empty picture and saves it."""
    size = {"width": side, "height": side, "batch_size": 1}
    return {
        "1": {"class_type": "EmptyImage", "inputs": {**size, "color": color}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "tests/empty"}},
    }


def long_sampling() -> dict:
    """A prompt that stays in one node for a while: a huge blur, so that there is time to cancel it."""
    prompt = picture(side=2048)
    prompt["3"] = {"class_type": "ImageBlur", "inputs": {"image": ["1", 0], "blur_radius": 31, "sigma": 10.0}}
    for number in range(4, 24):
        inputs = {"image": [str(number - 1), 0], "blur_radius": 31, "sigma": 10.0}
        prompt[str(number)] = {"class_type": "ImageBlur", "inputs": inputs}
    prompt["2"]["inputs"]["images"] = ["23", 0]
    return prompt


def test_the_pack_is_loaded_and_none_of_its_modules_failed(server: ComfyServer):
    log = server.log_text()
    assert "custom_nodes/impasto" in log
    assert "IMPORT FAILED" not in log
    assert "could not be imported" not in log


def test_a_prompt_runs_and_its_picture_is_on_disk(server: ComfyServer):
    result = server.queue(picture(color=1))
    (saved,) = server.output_files(result, "2")
    assert saved.is_relative_to(server.base / "output") and saved.stat().st_size > 0
    assert list(result.seconds) == ["1", "2"]


def test_a_prompt_queued_twice_is_taken_from_the_cache(server: ComfyServer):
    server.queue(picture(color=2))
    again = server.queue(picture(color=2))
    assert set(again.cached) == {"1", "2"}
    assert not again.seconds


def test_a_node_that_raises_is_reported_in_its_own_words(server: ComfyServer):
    inputs = {"string": "a", "regex_pattern": "(unclosed", "replace": "b"}
    prompt = {
        "1": {"class_type": "RegexReplace", "inputs": inputs},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }
    with pytest.raises(NodeFailed) as failure:
        server.queue(prompt)
    assert failure.value.node_id == "1"
    assert "unterminated subpattern" in failure.value.exception_message


def test_a_prompt_with_a_missing_node_is_refused_before_it_runs(server: ComfyServer):
    with pytest.raises(PromptRefused, match="NoSuchNode"):
        server.queue({"1": {"class_type": "NoSuchNode", "inputs": {}}})


def test_cancel_ends_the_prompt_and_the_next_one_runs(server: ComfyServer):
    execution = server.submit(long_sampling())
    while not any(kind == "executing" for kind, _ in execution.messages):
        time.sleep(0.01)
    server.interrupt()
    with pytest.raises(Interrupted):
        execution.wait(60)
    assert server.queue(picture(color=3)).outputs["2"]["images"]


def test_a_killed_server_is_noticed_and_starts_again_over_the_same_folders(own_server: ComfyServer):
    before = own_server.output_files(own_server.queue(picture()), "2")
    execution = own_server.submit(long_sampling())
    threading.Timer(0.2, own_server.kill).start()
    with pytest.raises(ServerFailed):
        execution.wait(60)
    own_server.restart()
    assert own_server.queue(picture()).outputs["2"]["images"]
    assert before[0].is_file()
