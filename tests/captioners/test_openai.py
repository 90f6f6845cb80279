"""The OpenAI-compatible captioner against a server on loopback."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import time
from pathlib import Path

import pytest
from aiohttp import web
from impasto.captioners.captioner import Kind
from impasto.captioners.gemini import GeminiSettings
from impasto.captioners.keys import read_endpoint
from impasto.captioners.ledger import read_ledger
from impasto.captioners.openai import OpenAICaptioner, OpenAISettings, read_completion
from impasto.captioners.runner import caption_dataset
from impasto.clock import Clock
from impasto.errors import CaptionError, SettingsError

from .. import loopback

KEY = "sk-a-local-key-0001"


class Server:
    """Answers chat completions by what `reply` makes of the number of the request."""

    def __init__(self, reply):
        self.reply, self.bodies, self.headers, self.url = reply, [], [], ""

    async def complete(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        said = self.reply(len(self.bodies))
        return said if isinstance(said, web.Response) else completion(said)


def completion(text: str, reason: str = "stop") -> web.Response:
    choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text}}
    return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 900, "completion_tokens": 30}})


@contextlib.contextmanager
def serving(server: Server):
    app = web.Application(client_max_size=2**24)
    app.router.add_post("/v1/chat/completions", server.complete)
    with loopback.serving(app) as address:
        server.url = f"{address}/v1"
        yield server


def run(dataset, server: Server, folder: Path, **options):
    folder.mkdir(exist_ok=True)
    (folder / "openai.toml").write_text(f'[endpoints.mine]\nbase_url = "{server.url}"\nkey = "{KEY}"\n')
    captioner = OpenAICaptioner(OpenAISettings("mine", "qwen3-vl:8b"), folder, {})
    clock = Clock(time.time(), 100)
    return asyncio.run(caption_dataset(dataset, captioner, clock=clock, **options))


def test_every_picture_is_sent_as_jpeg_and_captioned(make_dataset, tmp_path):
    dataset = make_dataset(4)
    with serving(Server(lambda number: f"The image shows a boat, number {number}.")) as server:
        done = run(dataset, server, tmp_path / "user", trigger_word="mntgrdn")
        run(dataset, server, tmp_path / "user")
    assert len(server.bodies) == 4 and "3,600 in, 120 out" in done.report
    assert sorted(record.text for record in done.dataset.records()) == [
        f"mntgrdn, A boat, number {number}." for number in (1, 2, 3, 4)
    ]
    url = server.bodies[0]["messages"][1]["content"][0]["image_url"]["url"]
    assert base64.b64decode(url.removeprefix("data:image/jpeg;base64,")).startswith(b"\xff\xd8")
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}" and KEY not in done.report


def test_what_no_word_has_is_taken_out_of_answers_and_of_ledgers_that_hold_it(make_dataset, tmp_path):
    """Half an emoji, as servers cut tokens, once stopped every later run over the dataset."""
    dataset = make_dataset(2)
    with serving(Server(lambda number: f"A \x1b[1mboat\0at \ud83dsea, number {number}.")) as server:
        done = run(dataset, server, tmp_path / "user")
        texts = sorted(record.text for record in done.dataset.records())
        assert texts == ["A boat at sea, number 1.", "A boat at sea, number 2."]

        ledger = done.dataset.captions_ledger
        earlier = ledger.read_text(encoding="utf-8").replace("A boat", r"A \ud83dboat\u0000")
        assert r"\ud83dboat\u0000" in earlier
        ledger.write_text(earlier, encoding="utf-8")
        ledger.with_suffix(".sums").unlink()  # which earlier versions did not write
        again = run(dataset, server, tmp_path / "user")
    assert len(server.bodies) == 2
    assert sorted(record.text for record in again.dataset.records()) == texts


@pytest.mark.parametrize(
    "first",
    [
        lambda: web.Response(status=503, text="loading model"),
        lambda: web.Response(status=429, headers={"Retry-After": "1"}),
        lambda: web.Response(text="<html>"),
        lambda: web.json_response({"error": "strange"}),
        lambda: completion(""),
        lambda: completion("<think>hm</think>"),
        lambda: completion("A boat on", "length"),
    ],
)
def test_what_helps_to_ask_again_is_asked_again(make_dataset, tmp_path, first):
    with serving(Server(lambda number: first() if number == 1 else "A boat.")) as server:
        done = run(make_dataset(1), server, tmp_path / "user")
    assert not done.refused and len(server.bodies) == 2


def test_a_model_cut_off_while_it_thinks_is_given_more_tokens_and_then_refused(make_dataset, tmp_path):
    with serving(Server(lambda number: completion("<think>Hm", "length") if number == 1 else "A boat.")) as server:
        assert not run(make_dataset(1), server, tmp_path / "user").refused
    assert [body["max_tokens"] for body in server.bodies] == [512, 4_096]


def test_a_model_cut_off_again_is_refused_and_not_asked_a_third_time(make_dataset, tmp_path):
    with serving(Server(lambda number: completion("<think>Hm", "length"))) as server:
        done = run(make_dataset(1), server, tmp_path / "user")
    assert [refusal.kind for refusal in done.refused.values()] == [Kind.CUT_OFF] and len(server.bodies) == 2
    assert "60 out" in done.report  # both attempts are counted


def test_an_answer_that_stays_empty_is_a_refusal_and_no_caption(make_dataset, tmp_path):
    with serving(Server(lambda number: "")) as server:
        done = run(make_dataset(1), server, tmp_path / "user")
    assert [refusal.kind for refusal in done.refused.values()] == [Kind.NO_ANSWER]
    assert done.dataset.records()[0].text == ""


def test_thinking_is_no_part_of_the_caption(make_dataset, tmp_path):
    answers = ["A plan: </think> no, <think>so</think>\nA boat."]
    with serving(Server(lambda number: answers[0])) as server:
        done = run(make_dataset(1), server, tmp_path / "user", rules=None)
    assert done.dataset.records()[0].text == "A boat."
    empty = {"choices": [{"message": {"content": "The picture shows a boat.</think> "}}]}
    assert read_completion(empty).kind is Kind.NO_ANSWER


def said(content=None, reason: str = "stop", **message) -> dict:
    return {"choices": [{"finish_reason": reason, "message": {"role": "assistant", "content": content} | message}]}


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "A boat, "}, {"type": "text", "text": "moored."}],
        [{"type": "thinking", "thinking": "Hm."}, {"type": "output_text", "text": {"value": "A boat, moored."}}],
        {"type": "text", "text": "A boat, moored."},
        "\ufeffA boat, moored.",
        '{"description": "A boat, moored."}',
        '```json\n{"caption": "A boat, moored."}\n```',
        'Here it is:\n```\n[{"Image Description": "A boat, moored.", "mood": "calm"}]\n```\nEnjoy!',
        '\ufeff{"result": {"text": "A boat, moored."}}',
        '["A boat, moored."]',
        'Sure! {"description": "A boat, moored."} Anything else?',
    ],
)
def test_a_caption_is_read_however_it_is_wrapped(content):
    assert read_completion(said(content)).text == "A boat, moored."


def test_line_breaks_in_json_and_brackets_in_prose_are_no_faults():
    assert read_completion(said('{"description": "A boat,\n\tmoored."}')).text.split() == ["A", "boat,", "moored."]
    assert read_completion(said("[Left] a boat, {right} a tree.")).text == "[Left] a boat, {right} a tree."
    assert read_completion(said('{"caption": 3}')).kind is Kind.MALFORMED
    assert read_completion(said('{"caption": "A boat')).kind is Kind.MALFORMED
    assert read_completion(said("[" * 100_000 + "{")).kind is Kind.MALFORMED


@pytest.mark.parametrize("reason", ["length", "max_tokens", "MAX_TOKENS", "maxTokens", "max-output-tokens"])
def test_cut_off_is_a_kind_of_its_own_in_any_spelling_and_says_what_to_do(reason):
    refusal = read_completion(said("A boat on", reason))
    assert refusal.kind is Kind.CUT_OFF and reason in refusal.reason and "shorter caption" in refusal.reason


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (said(None, refusal="I can't describe this."), Kind.ANSWER_BLOCKED, "I can't describe this."),
        (said([{"type": "refusal", "refusal": "No."}]), Kind.ANSWER_BLOCKED, "declines: No."),
        (said("", "content_filter"), Kind.ANSWER_BLOCKED, "content_filter"),
        (said("", reasoning_content="A boat?"), Kind.NO_ANSWER, "thinking and no answer"),
        (said("<think>A boat?"), Kind.NO_ANSWER, "thinking and no answer"),
        (said("", "length", reasoning="A boat?"), Kind.CUT_OFF, "thinking included"),
    ],
)
def test_refusals_and_thinking_apart_from_the_answer_are_no_captions(reply, kind, words):
    refusal = read_completion(reply)
    assert refusal.kind is kind and words in refusal.reason


def test_thinking_apart_does_not_hide_the_answer(make_dataset, tmp_path):
    body = "\ufeff" + json.dumps(said("A\nboat.", reasoning_content="Hm.")).replace("\\n", "\n")  # raw, in a string
    with serving(Server(lambda number: web.Response(body=body.encode()))) as server:
        done = run(make_dataset(1), server, tmp_path / "user")
    assert done.dataset.records()[0].text == "A boat."


@pytest.mark.parametrize(
    ("status", "body", "remedy"),
    [
        (429, {"message": "You exceeded your current quota.", "code": "insufficient_quota"}, "add credit"),
        (402, {"message": "Insufficient credits. Add more using https://openrouter.ai/settings/credits"}, "add credit"),
        (402, {"message": "Insufficient Balance"}, "add credit"),
        (400, {"message": "Your credit balance is too low to access the API."}, "add credit"),
        (429, {"message": "Billing hard limit has been reached"}, "raise the limit"),
        (400, {"message": "Budget has been exceeded! Current cost: 1.2"}, "raise the limit"),
        (403, {"message": "Requests from referer <empty> are blocked."}, "lift that restriction"),
        (403, {"message": "Country, region, or territory not supported"}, "another server"),
        (200, {"message": "Insufficient credits", "code": 402}, "add credit"),
    ],
)
def test_what_only_the_owner_of_the_account_can_mend_stops_at_once_with_the_remedy(
    make_dataset, tmp_path, status, body, remedy
):
    dataset = make_dataset(5)
    with serving(Server(lambda number: web.json_response({"error": body}, status=status))) as server:
        with pytest.raises(CaptionError, match=remedy):
            run(dataset, server, tmp_path / "user")
        assert len(server.bodies) <= 2  # those under way
    assert not read_ledger(dataset.captions_ledger)


@pytest.mark.parametrize("status", [400, 403])
def test_a_picture_that_moderation_flags_is_refused_and_the_run_goes_on(make_dataset, tmp_path, status):
    flagged = {"error": {"message": "Your input was flagged by moderation", "code": status}}
    with serving(
        Server(lambda number: web.json_response(flagged, status=status) if number == 2 else "A boat.")
    ) as server:
        done = run(make_dataset(4), server, tmp_path / "user")
    assert [refusal.kind for refusal in done.refused.values()] == [Kind.PROMPT_BLOCKED] and len(server.bodies) == 4


def test_a_rate_limit_that_speaks_of_plans_and_billing_is_a_rate_limit(make_dataset, tmp_path):
    words = "You exceeded your current quota, please check your plan and billing details. Please retry in 2s."
    first = {"error": {"message": words, "code": 429}}
    with serving(Server(lambda number: web.json_response(first, status=429) if number == 1 else "A boat.")) as server:
        assert not run(make_dataset(1), server, tmp_path / "user").refused


def test_a_server_that_is_not_there_is_told_within_two_seconds_and_nothing_is_encoded(
    make_dataset, tmp_path, monkeypatch
):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setattr("impasto.captioners.openai.jpeg_or_refusal", None)
    (tmp_path / "openai.toml").write_text(f'[endpoints.mine]\nbase_url = "http://me:secret@127.0.0.1:{port}/v1"\n')
    captioner, dataset, began = (
        OpenAICaptioner(OpenAISettings("mine", "m"), tmp_path, {}),
        make_dataset(30),
        time.time(),
    )
    with pytest.raises(CaptionError, match=f"No server 'mine' is at http://127.0.0.1:{port}: .*Start it") as refused:
        asyncio.run(caption_dataset(dataset, captioner))
    assert time.time() - began < 2 and "secret" not in str(refused.value)


def test_a_server_that_takes_no_connection_is_told_within_two_seconds(make_dataset, tmp_path):
    with socket.socket() as full, contextlib.ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):  # what is listened for beyond its queue is not answered
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        address = f"http://127.0.0.1:{full.getsockname()[1]}/v1"
        (tmp_path / "openai.toml").write_text(f'[endpoints.mine]\nbase_url = "{address}"\n')
        captioner, dataset = OpenAICaptioner(OpenAISettings("mine", "m"), tmp_path, {}), make_dataset(2)
        began = time.time()
        with pytest.raises(CaptionError, match=r"did not answer within 1\.5 s"):
            asyncio.run(caption_dataset(dataset, captioner))
        assert time.time() - began < 2


def test_a_request_that_no_picture_can_pass_ends_the_run_and_keeps_the_pictures_open(make_dataset, tmp_path):
    dataset = make_dataset(20)
    with serving(Server(lambda number: web.Response(status=400, text="max_tokens is not supported"))) as server:
        with pytest.raises(CaptionError, match="max_tokens is not supported"):
            run(dataset, server, tmp_path / "user")
        assert len(server.bodies) < 20
        server.reply = lambda number: "A boat."
        assert not run(dataset, server, tmp_path / "user").refused


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (lambda: web.json_response({"error": "Unexpected endpoint: POST /chat"}), "Unexpected endpoint: POST /chat"),
        (lambda: web.json_response({"error": {"message": "No model is loaded"}}), "'No model is loaded'"),
        (lambda: web.Response(text="<html>Please log in</html>"), "no JSON"),
    ],
)
def test_replies_that_are_no_completions_end_the_run_and_keep_the_pictures_open(make_dataset, tmp_path, reply, said):
    dataset = make_dataset(12)
    with serving(Server(lambda number: reply())) as server:
        with pytest.raises(CaptionError, match=f"10 pictures in a row.*{said}"):
            run(dataset, server, tmp_path / "user")
        server.reply = lambda number: "A boat."
        assert not run(dataset, server, tmp_path / "user").refused


def test_a_picture_that_the_server_cannot_read_is_refused_for_good(make_dataset, tmp_path):
    dataset = make_dataset(1)
    with serving(Server(lambda number: web.Response(status=400, text="Failed to load image"))) as server:
        for _ in range(2):
            assert run(dataset, server, tmp_path / "user").refused
    assert len(server.bodies) == 1


def test_a_key_halved_by_the_cut_of_a_reply_does_not_show(make_dataset, tmp_path):
    with serving(Server(lambda number: web.Response(status=400, text="x" * 290 + KEY))) as server:
        done = run(make_dataset(1), server, tmp_path / "user")
    assert KEY[:6] not in done.report and "400 xxx" in done.report
    assert KEY[:6] not in read_completion({"error": "x" * 40 + KEY}, [KEY]).reason


@pytest.mark.parametrize("status", [401, 404, 302])
def test_what_is_wrong_for_every_picture_ends_the_run(make_dataset, tmp_path, status):
    said = web.Response(status=status, text=f"no {KEY}", headers={"Location": "http://127.0.0.1:9/"})
    with (
        serving(Server(lambda number: web.Response(status=status, text=said.text, headers=said.headers))) as server,
        pytest.raises(CaptionError) as refused,
    ):
        run(make_dataset(1), server, tmp_path / "user")
    assert KEY not in str(refused.value) and "mine" in str(refused.value)


@pytest.mark.parametrize(
    "pasted",
    [
        "AIzaSyD-0123456789abcdef",
        "AIzaSyB7x9Qw2Rt5Yu8Io1Pa4Sd6Fg3Hj0Kl-_Zx",
        "AQ.Ab8RN6KpXw2Lq9Tz",
        "sk-proj-0123456789",
        "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",
        "sk-ant-api03-Xy7Kq",
        "gsk_4Tz8WmQe2Rv6Yb1Nc",
        "0123456789abcdef0123456789abcdef",
        "9bWqZk3TfXh7VnRj5LmPc2SdGy8QtAx4",
        "hf_abcdefghijkl",
        "xai-7HsK2mVqP9xWb4Rt6YzN",
        "8f14e45f-ceea-467f-a4d2-3b1d5c9e7a60",
    ],
)
@pytest.mark.parametrize(
    "settings", [lambda model: OpenAISettings("mine", model), lambda model: GeminiSettings(model=model)]
)
def test_a_key_pasted_as_the_model_is_refused_and_not_repeated(pasted, settings):
    with pytest.raises(SettingsError, match="looks like a key") as refused:
        settings(f" {pasted}")
    assert pasted[:6] not in str(refused.value)


def test_a_key_of_any_form_is_refused_as_the_model(make_dataset, tmp_path):
    (tmp_path / "openai.toml").write_text('[endpoints.mine]\nbase_url = "http://127.0.0.1:9/v1"\nkey = "my-own-key"\n')
    captioner = OpenAICaptioner(OpenAISettings("mine", "my-own-key"), tmp_path, {})
    with pytest.raises(SettingsError, match="looks like a key"):
        asyncio.run(caption_dataset(make_dataset(1), captioner))


@pytest.mark.parametrize(
    "model",
    [
        "hf.co/unsloth/Qwen3-VL-8B-Instruct-GGUF:Q4_K_M",
        "hf.co/mradermacher/Llama-3.2-11B-Vision-Instruct-abliterated-i1-GGUF:IQ4_XS",
        "hf.co/concedo/llama-joycaption-beta-one-hf-llava-mmproj-gguf:Q8_0",
        "huihui_ai/qwen2.5-vl-abliterated:72b-instruct-q4_K_M",
        "qwen/qwen2.5-vl-72b-instruct",
        "llama-joycaption-beta-one",
        "lmstudio-community/Qwen2.5-VL-32B-Instruct-MLX-4bit@q8_0",
        "mistralai/mistral-small-3.2-24b-instruct-2506",
        "xai-org/grok-2-vision",
        "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
        "internlm/InternVL3_5-GPT-OSS-20B-A4B-Preview-HF",
        "openbmb/MiniCPMLlama3V25Int4QuantizedForVision",
        "MyPaintingCaptionerFinetunedOnImpressionists",
        "/root/.cache/huggingface/hub/models--Qwen--Qwen3-VL-8B-Instruct/snapshots/"
        "0c351dd01ed87e9c1b53cbc748cba10e6187ff3b",
        "C:\\models\\llama-joycaption-beta-one-hf-llava-Q4_K_M.gguf",
        "registry.ollama.ai/library/gemma3:27b-it-qat@sha256-" + "a1b2c3d4" * 8,
    ],
)
def test_long_names_of_models_are_names(model):
    assert OpenAISettings("mine", model).model == model


def test_a_graph_names_servers_and_cannot_give_addresses(tmp_path):
    file = tmp_path / "openai.toml"
    assert read_endpoint(file, "ollama", {}).base_url == "http://127.0.0.1:11434/v1"
    for name in ("http://169.254.169.254/", "", "evil"):
        with pytest.raises(SettingsError, match="ollama"):
            read_endpoint(file, name, {})
    file.write_text('[endpoints.mine]\nbase_url = "file:///etc/passwd"\n')
    with pytest.raises(SettingsError, match="http"):
        read_endpoint(file, "mine", {})
    file.write_text(f"[endpoints.mine]\nkey = {KEY}\n")  # quotes forgotten: the key must not show
    with pytest.raises(SettingsError) as refused:
        read_endpoint(file, "mine", {})
    assert KEY not in str(refused.value)
