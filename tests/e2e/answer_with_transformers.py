"""Runs in the image: asks tiny-omni with transformers alone, greedily, what the probes ask vLLM.

Prints one JSON object: the answer to each exercise of the seed, and whether the training's
encoder makes of it what the model's own processor does.
"""

from __future__ import annotations

import io
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import torch
from PIL import Image
from transformers import Qwen3OmniMoeForConditionalGeneration, Qwen3OmniMoeProcessor

from healthchecks import exercises
from scripts.tiny_omni.encoding import Encoder
from scripts.tiny_omni.samples import Part, Sample

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "models" / "tiny-omni"


def film(content: bytes) -> tuple[Any, Any]:
    """The frames of a film, and the samples of its sound track, if it has one."""
    with av.open(io.BytesIO(content)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(io.BytesIO(content)) as container:
        if not container.streams.audio:
            return np.stack(frames), None
        pieces = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    return np.stack(frames), np.concatenate(pieces)


def part_of(medium: exercises.Medium) -> Part:
    """A medium as the training has it."""
    if medium.kind == "image":
        pixels = np.asarray(Image.open(io.BytesIO(medium.content)).convert("RGB"))
        return Part("image", pixels=pixels)
    if medium.kind == "audio":
        return Part("audio", sound=32768 * soundfile.read(io.BytesIO(medium.content))[0])
    frames, track = film(medium.content)
    return Part("video", pixels=frames, sound=None if track is None else 32768 * track)


def processed(processor: Any, parts: list[Part], question: str) -> Any:
    """What the model's processor makes of the parts and the question."""
    content: list[dict[str, Any]] = [{"type": part.kind} for part in parts]
    content.append({"type": "text", "text": question})
    messages = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    sounds = [part.sound / 32768 for part in parts if part.sound is not None]
    return processor(
        text=text,
        images=[part.pixels for part in parts if part.kind == "image"] or None,
        audio=sounds or None,
        videos=[part.pixels for part in parts if part.kind == "video"] or None,
        use_audio_in_video=any(p.kind == "video" and p.sound is not None for p in parts),
        return_tensors="pt",
    )


def same(encoder: Encoder, parts: list[Part], question: str, inputs: Any) -> bool:
    """Whether the training's encoder agrees with the processor."""
    encoded = encoder.encode(Sample((*parts, Part("text", question)), ""))
    if encoded.ids != inputs["input_ids"][0].tolist():
        return False
    if not encoded.sounds:
        return True
    mel = inputs["input_features"][0].numpy()[:, : encoded.sounds[0].shape[1]]
    return bool(np.allclose(mel, encoded.sounds[0], atol=1e-3))


def answer(thinker: Any, processor: Any, inputs: Any, *, with_track: bool) -> str:
    """The answer, greedily; the whole model's `generate` has the 30B model's end token in code."""
    ids = thinker.generate(
        **inputs.to(torch.bfloat16),
        use_audio_in_video=with_track,
        max_new_tokens=64,
        do_sample=False,
        eos_token_id=processor.tokenizer.eos_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
    )
    new = ids[0, inputs["input_ids"].shape[1] :]
    text: str = processor.decode(new, skip_special_tokens=True)
    return text.rpartition("</think>")[2].strip()


def main() -> None:
    """Ask about both media of each modality."""
    warnings.filterwarnings("ignore")
    model = Qwen3OmniMoeForConditionalGeneration.from_pretrained(FOLDER, dtype=torch.bfloat16)
    processor = Qwen3OmniMoeProcessor.from_pretrained(FOLDER)
    encoder = Encoder(FOLDER)
    found = {}
    for modality in exercises.MODALITIES:
        for number, exercise in enumerate(exercises.pair(modality, sys.argv[1]), start=1):
            parts = [part_of(medium) for medium in exercise.media]
            inputs = processed(processor, parts, modality.question)
            row: dict[str, Any] = {"same": same(encoder, parts, modality.question, inputs)}
            # transformers 4.57 itself fails where there are both an image and a video.
            if modality is not exercises.ALL:
                with_track = bool(modality.options)
                row["answer"] = answer(model.thinker, processor, inputs, with_track=with_track)
            found[f"{modality.name}-{number}"] = row
    print(json.dumps(found))


if __name__ == "__main__":
    main()
