"""Stands for the container's side of `appliance offline`: no vLLM, the same messages.

The last text of a request says what becomes of it: `die`, `hang`, `bad`; else it is echoed, with
the bytes of its media. Answers come in pairs, the second first, as an engine's come in any order.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def say(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def answer(message: dict[str, Any], text: str) -> None:
    content = f"{text} {[len(data) for data in message['media']]}"
    words = {"role": "assistant", "content": content, "reasoning": None}
    usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    choice = {"index": 0, "message": words, "finish_reason": "stop"}
    body = {"id": f"chat-{message['id']}", "choices": [choice], "usage": usage,
            "asked": message["body"], "sound": message["audio_in_video"]}  # fmt: skip
    say("result", id=message["id"], body=body)


def main() -> None:
    waiting: list[tuple[dict[str, Any], str]] = []
    say("loading")
    for line in sys.stdin:
        message = json.loads(line)
        if message["do"] == "start":
            say("ready", max_num_seqs=4)
        elif message["do"] == "end":
            break
        else:
            content = message["body"]["messages"][-1]["content"]
            text = content if isinstance(content, str) else content[-1].get("text", "")
            if text == "die":
                print("RuntimeError: the device is lost", file=sys.stderr, flush=True)
                sys.exit(3)
            if text == "hang":
                time.sleep(3600)
            if text == "bad":
                say("flaw", id=message["id"], code="media_invalid", message="no picture")
                continue
            waiting.append((message, text))
            if len(waiting) == 2:
                for it in reversed(waiting):
                    answer(*it)
                waiting.clear()
    for it in waiting:
        answer(*it)
    say("done")


if __name__ == "__main__":
    main()
