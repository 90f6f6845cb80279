from impasto.prompting.queued_graph import loras_with


def node(kind: str, **inputs: object) -> dict:
    return {"class_type": kind, "inputs": inputs}


def graph() -> dict:
    """Two samplers: one with two LoRAs and the prompt, one with another LoRA and a text of its own."""
    return {
        "model": node("UNETLoader", unet_name="flux.safetensors"),
        "monet": node(
            "LoraLoaderModelOnly", model=["model", 0], lora_name="monet\\monet.safetensors", strength_model=0.8
        ),
        "light": node(
            "LoraLoader", model=["monet", 0], lora_name="light.v2.safetensors", strength_model=1, strength_clip=0
        ),
        "prompt": node("ImpastoPromptManager", text="a boat"),
        "encode": node("CLIPTextEncodeFlux", clip=["clip", 0], clip_l=["prompt", 0], t5xxl=["prompt", 1]),
        "sample": node("KSampler", model=["light", 0], positive=["encode", 0]),
        "other lora": node(
            "LoraLoaderModelOnly", model=["model", 0], lora_name="other.safetensors", strength_model=1.0
        ),
        "other": node("KSampler", model=["other lora", 0], positive=["words", 0]),
    }


def test_the_loras_of_the_prompts_own_sampler_are_found():
    assert loras_with(graph(), "prompt") == "monet 0.8, light.v2 1"


def test_a_lora_of_strength_0_is_none():
    without = graph()
    without["light"]["inputs"]["strength_model"] = 0.0
    assert loras_with(without, "prompt") == "monet 0.8"


def test_several_loras_of_one_loader_are_found_but_those_that_are_off():
    several = graph()
    several["light"] = node(
        "Power Lora Loader (rgthree)",
        model=["monet", 0],
        lora_1={"on": True, "lora": "a.safetensors", "strength": 0.5},
        lora_2={"on": False, "lora": "b.safetensors", "strength": 1},
    )
    assert loras_with(several, "prompt") == "monet 0.8, a 0.5"


def test_without_a_graph_or_loras_there_are_none():
    assert loras_with(None, "prompt") == ""
    assert loras_with(graph(), "absent") == ""
    assert (
        loras_with({"prompt": node("ImpastoPromptManager"), "show": node("PreviewAny", source=["prompt", 0])}, "prompt")
        == ""
    )


def test_a_strength_that_comes_over_a_link_leaves_the_lora_its_name():
    linked = graph()
    linked["light"]["inputs"]["strength_model"] = ["slider", 0]
    assert loras_with(linked, "prompt") == "monet 0.8, light.v2"


def test_nodes_that_lead_nowhere_may_have_no_inputs():
    """ComfyUI looks only at the inputs of nodes that lead to an output."""
    assert loras_with(graph() | {"aside": {"class_type": "Note"}}, "prompt") == "monet 0.8, light.v2 1"
