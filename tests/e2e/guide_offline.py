"""Runs inside the appliance image: the guide's offline script, on the requests of its stdin.

    python3 guide_offline.py MODEL < requests.json

What it does is the guide's, line by line; other than there it runs on the CPU, on several
requests one after another, and reads videos with the appliance's reader, since with torchvision
0.26 qwen-omni-utils has none that works. It prints `RESULT` and a JSON document.
"""

from __future__ import annotations

import gc
import json
import sys
from typing import Any

from vllm import LLM, SamplingParams
from vllm.distributed.parallel_state import destroy_distributed_environment, destroy_model_parallel


def clean_up() -> None:
    """Clean up distributed resources."""
    destroy_model_parallel()
    destroy_distributed_environment()
    gc.collect()


def prepare(processor: Any, messages: list[Any], *, sound: bool) -> dict[str, Any]:
    from qwen_omni_utils import process_mm_info

    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    audios, images, videos = process_mm_info(messages, use_audio_in_video=sound)
    inputs: dict[str, Any] = {
        "prompt": text,
        "multi_modal_data": {},
        "mm_processor_kwargs": {"use_audio_in_video": sound},
    }
    if images is not None:
        inputs["multi_modal_data"]["image"] = images
    if videos is not None:
        inputs["multi_modal_data"]["video"] = videos
    if audios is not None:
        inputs["multi_modal_data"]["audio"] = audios
    return inputs


def main() -> None:
    from modelscope import Qwen3OmniMoeProcessor

    from appliance.inside import video

    video.install()
    requests = json.load(sys.stdin)
    path = sys.argv[1]
    llm = LLM(
        model=path,
        tensor_parallel_size=1,
        limit_mm_per_prompt={"image": 5, "video": 2, "audio": 3},
        max_model_len=32768,
        enforce_eager=True,
    )
    processor = Qwen3OmniMoeProcessor.from_pretrained(path)
    found = {}
    for name, it in requests.items():
        inputs = prepare(processor, it["messages"], sound=it["sound"])
        sampling = SamplingParams(temperature=0.0, max_tokens=it["max_tokens"])
        (output,) = llm.generate([inputs], sampling_params=sampling)
        found[name] = {
            "text": output.outputs[0].text,
            "prompt_tokens": len(output.prompt_token_ids),
            "tokens": len(output.outputs[0].token_ids),
        }
    print("RESULT", json.dumps(found), flush=True)
    del llm
    clean_up()


if __name__ == "__main__":
    main()
