"""What counts as a right answer: transcripts, long and short, in English and Chinese."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from healthchecks import answers, reading

TRANSCRIPTS = Path(__file__).resolve().parents[1] / "answers" / "transcripts.yaml"
TABLE: list[dict[str, Any]] = yaml.safe_load(TRANSCRIPTS.read_text(encoding="utf-8"))
OTHERS = {
    "colour": {"red", "purple", "white", "orange", "blue", "black"},
    "shape": {"circle", "square", "star", "triangle"},
    "beeps": {"1", "2", "3", "4"},
    "pitch": {"higher", "lower"},
    "direction": {"left", "right", "up", "down"},
}
RED_CIRCLE = {"colour": "red", "shape": "circle"}
THREE = {"beeps": "3"}
LEFT = {"direction": "left"}
ALL = RED_CIRCLE | THREE | LEFT


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row["name"])
def test_right_answers_pass_in_any_form(row: dict[str, Any]) -> None:
    complaints = {text: reading.complaint(row["wanted"], text) for text in row["right"]}
    assert {text: found for text, found in complaints.items() if found} == {}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row["name"])
def test_wrong_and_hedged_answers_do_not_pass(row: dict[str, Any]) -> None:
    assert [text for text in row["wrong"] if not reading.complaint(row["wanted"], text)] == []


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row["name"])
def test_a_right_answer_is_right_for_nothing_else(row: dict[str, Any]) -> None:
    """No text passes for two values: else luck would be as good as sight."""
    for fact, right in row["wanted"].items():
        for other in OTHERS[fact] - {right}:
            wanted = {**row["wanted"], fact: other}
            assert [text for text in row["right"] if not reading.complaint(wanted, text)] == []


def test_the_complaint_says_what_is_wrong() -> None:
    assert reading.complaint(RED_CIRCLE, "red or blue circle") == "the colour is blue and red in it"
    assert reading.complaint(THREE, "Yes.") == "it names no beeps"
    assert reading.complaint(LEFT, "maybe left") == "it only guesses: 'maybe left'"
    assert reading.complaint(LEFT, "I can't see it") == 'it does not know: "can\'t see"'


@pytest.mark.parametrize(
    "hostile",
    [
        "plain " * 4000,
        "from the left " * 2000,
        "one beep, " * 2500,
        "on a light, dark " * 1500,
        "3-" * 10_000,
        "no image " * 3000,
        " " * 20_000 + "x",
        "(" * 20_000,
        "红色背景是" * 4000,
        "a" * 100_000,
        "\n**" * 7000,
    ],
)
def test_no_answer_takes_long_to_read(hostile: str) -> None:
    start = time.process_time()
    reading.complaint(ALL, hostile)
    assert time.process_time() - start < 2


# the message


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "red circle"}, "red circle"),
        ({"content": "I look.\n</think>\n\nred circle"}, "red circle"),
        ({"content": "<think>\nblue?\n</think>\n\nred circle"}, "red circle"),
        ({"content": "\n\nred circle", "reasoning": "blue? No."}, "red circle"),
        ({"content": "red circle", "reasoning_content": "blue?"}, "red circle"),
        ({"content": None, "reasoning": "It is round.\n\nred circle"}, "red circle"),
        ({"content": "", "reasoning_content": "blue?</think>red circle"}, "red circle"),
        ({"content": [{"type": "text", "text": "red "}, {"text": "circle"}]}, "red circle"),
        ({"content": None}, ""),
        ({"content": 3, "reasoning": ["x"]}, ""),
    ],
)
def test_the_answer_is_what_follows_the_reasoning(message: dict[str, object], text: str) -> None:
    assert answers.from_message(message, cut=False).text == text


@pytest.mark.parametrize(
    "message",
    [
        {"content": "The user asks about a red circle. It"},
        {"content": None, "reasoning": "The user asks about a red circle. It"},
        {"content": "<think>The user asks about a red circle. It"},
    ],
)
def test_reasoning_without_an_end_is_no_answer(message: dict[str, object]) -> None:
    found = answers.from_message(message, cut=True)
    assert (found.text, found.cut) == ("", True)
    assert found.reasoning.endswith("It")


@pytest.mark.parametrize(
    ("text", "cut", "flaw"),
    [
        ("!" * 64, True, "'!' again and again"),
        ("I look. " + "the " * 200, True, "again and again"),
        ("左" * 40, True, "'左' again and again"),
        ("Wait, let me look again. " * 20, True, "again and again"),
        ("\n 0 0 0 0 0 0 0 0 0 0 0 0 0 0", False, "again and again"),
        ("red \ufffd circle", False, "1 replacement character"),
        ("\ufffd\ufffd", False, "2 replacement characters"),
        ("red circle \ufffd", False, "1 replacement character"),
        ("", False, "nothing but special tokens"),
        (" \n ", True, "nothing but special tokens"),
        ("\ufffd", True, "nothing but special tokens"),
        ("red circle \ufffd", True, None),
        ("3", False, None),
        ("......", False, None),
        ("Okay, the user says hello. I should answer in kind.", True, None),
        ("- red\n- green\n- blue\n----------------\nred circle", False, None),
        ("beep 1 at 0.2 s, beep 2 at 0.7 s, beep 3 at 1.2 s", False, None),
    ],
)
def test_degenerate_output_is_named(text: str, cut: bool, flaw: str | None) -> None:
    found = answers.flaw(text, cut=cut)
    assert (found is None) if flaw is None else (found is not None and flaw in found)
