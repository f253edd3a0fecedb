"""Writes small datasets in the forms of gsm8k, bbh and omni_bench, for tests of `appliance eval`.

    python scripts/make_eval_data.py FOLDER

The questions are this project's own; none comes from the datasets whose form they take, so a
score of them says nothing. The parquet file needs pyarrow, which evalscope's environment has:
`docker run --rm -v "$PWD:/work" -w /work --entrypoint /opt/evalscope/bin/python IMAGE-eval
scripts/make_eval_data.py FOLDER`. tests/data/eval holds what it writes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

MEDIA = Path(__file__).resolve().parents[1] / "healthchecks" / "media"
THINGS = ("lamps", "ropes", "bells", "maps", "crates", "oars", "tiles", "jars")


def sum_of(number: int) -> dict[str, str]:
    """Return a question in gsm8k's form: an answer in words, then its number after ####."""
    thing, first, more = THINGS[number % len(THINGS)], number + 3, 2 * number + 1
    return {
        "question": (
            f"The lighthouse keeps {first} {thing} upstairs and {more} {thing} in the cellar. "
            f"How many {thing} does it keep?"
        ),
        "answer": f"It keeps {first} + {more} = {first + more} {thing}.\n#### {first + more}",
    }


def walk(number: int) -> dict[str, str]:
    """Return a question in the form of bbh's navigate."""
    steps = number % 3 + 1
    back = steps if number % 2 else steps + 1
    return {
        "input": (
            "If you follow these instructions, do you return to the starting point? "
            f"Always face forward. Take {steps} steps forward. Take {back} steps backward.\n"
            "Options:\n- Yes\n- No"
        ),
        "target": "Yes" if steps == back else "No",
    }


def watch(number: int) -> dict[str, str]:
    """Return a question in the form of bbh's temporal_sequences."""
    begin = number % 4
    hours = [f"{hour}am to {hour + 1}am" for hour in range(5, 9)]
    options = "\n".join(f"({letter}) {hour}" for letter, hour in zip("ABCD", hours, strict=True))
    return {
        "input": (
            f"The keeper was seen at the lamp at all hours of the morning but from {hours[begin]}. "
            f"Between what times could the keeper have gone to the shore?\nOptions:\n{options}"
        ),
        "target": f"({'ABCD'[begin]})",
    }


def scene(number: int, image: bytes, audio: bytes) -> dict[str, object]:
    """Return a question in OmniBench's form, whose media are bytes."""
    options = ["a test card", "a harbour at night", "a page of music", "a crowd"]
    return {
        "index": number,
        "task type": "Object Identification and Description",
        "audio type": "sound event",
        "question": f"Picture {number + 1}: what is seen while the sound is heard?",
        "options": options,
        "answer": options[number % len(options)],
        "image content": "A test card with fields of colour.",
        "audio content": "A tone of steady pitch.",
        "image": {"bytes": image, "path": f"{number}.jpg"},
        "audio": {"bytes": audio, "path": f"{number}.wav"},
    }


def lines(file: Path, rows: list[dict[str, str]]) -> None:
    """Write rows as JSON lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main(folder: Path) -> None:
    """Write the three datasets."""
    import pyarrow as pa
    from pyarrow import parquet

    lines(folder / "gsm8k" / "main" / "test.jsonl", [sum_of(number) for number in range(8)])
    lines(folder / "gsm8k" / "main" / "train.jsonl", [sum_of(number) for number in range(20, 26)])
    for name, make in (("navigate", walk), ("temporal_sequences", watch)):
        # As the authors of BIG-Bench Hard publish it: one object, with a canary.
        rows = [make(number) for number in range(6)]
        file = folder / "bbh" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        document = {"canary": "made by scripts/make_eval_data.py", "examples": rows}
        file.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    image, audio = ((MEDIA / name).read_bytes() for name in ("image.jpg", "audio.wav"))
    file = folder / "omni_bench" / "data" / "train-00000-of-00001.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    scenes = [scene(number, image, audio) for number in range(4)]
    parquet.write_table(pa.Table.from_pylist(scenes), file, compression="zstd")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
