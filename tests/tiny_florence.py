"""A Florence-2 of 0.2 million weights, made at test time (a saved one would be tied to one version of transformers).

It is trained for a few seconds to name the colour of a plain picture, so that a caption shows which picture it is of.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
PROSE_TASKS = ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")
SIDE = 64  # pixels of the pictures that the model sees
MAX_STEPS = 500
LEARNT = 0.02  # loss per token; not knowing the colours costs about 0.1
TINY_VISION = {
    "depths": (1,) * 4,
    "embed_dim": (16, 32, 32, 32),
    "num_heads": (2,) * 4,
    "num_groups": (2,) * 4,
    "window_size": 2,
    "projection_dim": 32,
    "drop_path_rate": 0.0,
    "initializer_range": 0.1,
}
TINY_TEXT = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 256,
    "dropout": 0.0,
    "init_std": 0.1,
}


def caption_of(colour: str) -> str:
    return f"A {colour} boat on the water. A house stands behind it."


def picture_of(colour: str, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    return Image.new("RGB", size, COLOURS[colour])


def make_tiny_florence(folder: Path) -> Path:
    """Write a native checkpoint, as `florence-community` has them, to `folder`; about five seconds on one core."""
    processor = make_processor(SIDE)
    model = make_model(processor, TINY_VISION, TINY_TEXT)
    _train(model, processor)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make_processor(side: int):
    """What turns square pictures of `side` pixels into inputs, with a tokenizer that knows a few words whole."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import BartTokenizerFast, Florence2Processor

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    sentences = [caption_of(colour) for colour in COLOURS]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(sentences, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = dict(zip(("bos", "pad", "eos", "unk", "mask"), special, strict=True)) | {"cls": "<s>", "sep": "</s>"}
    fast = BartTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=1024,
        extra_special_tokens={"image_token": "<image>"},
        **{f"{name}_token": token for name, token in names.items()},
    )
    # transformers 5 has one class for Pillow and one for torchvision; 4 has the Pillow one only.
    image_processor = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
    images = image_processor(size={"height": side, "width": side}, do_center_crop=False, resample=3)
    images.image_seq_length = (side // 32) ** 2 + 1
    parsing = {"pure_text": {}, "ocr": {}, "description_with_bboxes": {}}
    return Florence2Processor(image_processor=images, tokenizer=fast, post_processor_config=parsing)


def make_model(processor, vision: dict, text: dict):
    """Seeded random weights; `vision` and `text` are what the configurations shall not have by default."""
    from transformers import BartConfig, Florence2Config, Florence2ForConditionalGeneration, GenerationConfig
    from transformers.models.florence2.configuration_florence2 import Florence2VisionConfig

    torch.manual_seed(0)
    tokenizer = processor.tokenizer
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = Florence2Config(
        vision_config=Florence2VisionConfig(**vision),
        text_config=BartConfig(**{"vocab_size": len(tokenizer)} | text | ids),
        image_token_id=tokenizer.image_token_id,
        **ids,
    )
    model = Florence2ForConditionalGeneration(config).eval()
    model.generation_config = GenerationConfig(forced_bos_token_id=0, no_repeat_ngram_size=3, num_beams=3, **ids)
    return model


def _train(model, processor) -> None:
    pictures = [picture_of(colour) for colour in COLOURS]
    answers = [f"<s>{caption_of(colour)}</s>" for colour in COLOURS]
    labels = processor.tokenizer(answers, add_special_tokens=False, return_tensors="pt").input_ids
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    learnt = 0  # steps in a row, one for each task
    with torch.enable_grad():
        for step in range(MAX_STEPS):
            task = PROSE_TASKS[step % len(PROSE_TASKS)]
            inputs = processor(text=[task] * len(pictures), images=pictures, return_tensors="pt")
            loss = model(**inputs, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            learnt = learnt + 1 if loss < LEARNT else 0
            if learnt == len(PROSE_TASKS):
                return
    raise AssertionError(f"the tiny Florence-2 did not learn its colours in {MAX_STEPS} steps: loss {loss:.3f}")
