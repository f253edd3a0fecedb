"""The documentation: that what it says of commands, keys, errors and files is so."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer.main

from appliance.cli.app import app
from appliance.config.load import RESERVED, keys, load
from appliance.errors import ERRORS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "docs.py"
NAMES = ("README.md", "README.zh-CN.md")
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in NAMES}
ALL = {**TEXTS, "CHANGELOG.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")}
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

each = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(name: str, language: str) -> list[str]:
    """The code blocks of a README that are in a language."""
    return [text for found, text in _BLOCK.findall(TEXTS[name]) if found == language]


def code(name: str) -> Iterator[str]:
    """Every line of code, in a block or within a sentence, with lines that go on joined."""
    for text in blocks(name, "bash"):
        lines = text.replace("\\\n", " ").splitlines()
        yield from (re.sub(r"\s#.*", "", line) for line in lines)
    yield from re.findall(r"`([^`\n]+)`", _BLOCK.sub("", TEXTS[name]))


def calls(name: str, program: str) -> list[list[str]]:
    """The words that follow a program's name, for each time that it is called."""
    pattern = re.compile(rf"(?<![\w./-]){program} (\S.*)")
    found = [match[1] for line in code(name) if (match := pattern.search(line))]
    assert found, "the README is not read rightly any more"
    return [shlex.split(text) for text in found]


# Tables


def test_the_tables_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--check"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stale_table_is_shown_and_then_mended(
    docs: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    for name, text in TEXTS.items():
        stale = text.replace("| 82 | `smoke-failed` |", "| 83 | `smoke-failed` |")
        assert stale != text
        (tmp_path / name).write_text(stale, encoding="utf-8")
    assert docs.main(["--check"]) == 1
    shown = capsys.readouterr().out
    assert "-| 83 | `smoke-failed` |" in shown
    assert "+| 82 | `smoke-failed` |" in shown
    assert docs.main([]) == 0
    assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in NAMES} == TEXTS
    assert docs.main(["--check"]) == 0


def test_make_docs_is_what_is_tested_here() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^docs: .*\n\t.*scripts/docs\.py$", makefile, re.MULTILINE)


def test_both_readmes_have_both_tables(docs: ModuleType) -> None:
    for text in TEXTS.values():
        marked = re.findall(r"<!-- generated: ([\w-]+) -->", text)
        assert sorted(marked) == sorted(docs.TABLES)
        assert text.count("<!-- end -->") == len(marked)


def test_every_text_is_translated_and_no_translation_is_left_over(docs: ModuleType) -> None:
    texts = set(docs.translatable())
    assert [text for text in texts if text not in docs.CHINESE] == []
    heads = {text for text in docs.CHINESE if not text.endswith(".")}
    assert set(docs.CHINESE) - texts <= heads
    for english, chinese in docs.CHINESE.items():
        assert re.search("[\u4e00-\u9fff]", chinese), english
        # What is code in the one is code in the other.
        assert sorted(re.findall("`[^`]+`", english)) == sorted(re.findall("`[^`]+`", chinese))


def test_a_text_without_a_translation_stays_english(docs: ModuleType) -> None:
    assert docs.chinese("A new text.") == "A new text."


@each
def test_every_key_and_every_error_is_there(name: str) -> None:
    for key in keys():
        assert f"| `{key.name}` |" in TEXTS[name]
    for error, kind in ERRORS.items():
        assert f"| {kind.exit_code} | `{error}` |" in TEXTS[name]


# Commands


def commands(words: list[str]) -> Any:
    """Return the command that a call of `appliance` names, as Typer made it."""
    command: Any = typer.main.get_command(app)
    for word in words:
        if word.startswith("-") or not hasattr(command, "commands"):
            break
        assert word in command.commands, f"appliance has no command {' '.join(words)}"
        command = command.commands[word]
    return command


@each
def test_every_command_of_the_appliance_exists(name: str) -> None:
    for words in calls(name, "appliance"):
        command = commands(words)
        assert words[0] == "--help" or not hasattr(command, "commands"), words
        options = {option for parameter in command.params for option in parameter.opts}
        used = {word for word in words if word.startswith("-")}
        assert used <= {*options, "--help"}, words


@each
def test_every_target_of_make_exists(name: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {
        target
        for line in re.findall(r"^([a-z][\w ]*):", makefile, re.MULTILINE)
        for target in line.split()
    }
    called = {words[0] for words in calls(name, "make")}
    assert {"up", "test", "docs"} <= called <= targets


@each
def test_every_key_that_is_set_exists(name: str) -> None:
    known = {key.name for key in keys()}
    for line in code(name):
        for key in re.findall(r"--set ([a-z_.]+)=", line):
            assert key in known, line
        for variable in re.findall(r"\bAPPLIANCE_[A-Z_]+\b", line):
            assert variable in {*RESERVED, *(key.variable for key in keys())}, line


@each
def test_the_examples_of_configuration_are_valid(name: str, clean: Path) -> None:
    examples = blocks(name, "yaml")
    assert examples
    for example in examples:
        file = clean / "appliance.yaml"
        file.write_text(example, encoding="utf-8")
        assert load(file, {}).origins


@each
def test_the_examples_of_python_and_of_the_shell_are_well_formed(name: str) -> None:
    for example in blocks(name, "python"):
        compile(example, name, "exec")
    for example in blocks(name, "bash"):
        subprocess.run(["bash", "-n"], input=example, text=True, check=True, timeout=10)


# Files


@each
def test_every_relative_link_leads_somewhere(name: str) -> None:
    anchors = {
        re.sub(r"[^\w\u4e00-\u9fff -]", "", head.lower()).strip().replace(" ", "-")
        for head in re.findall(r"^#+ (.+)$", _BLOCK.sub("", TEXTS[name]), re.MULTILINE)
    }
    links = re.findall(r"\]\(([^)]+)\)", TEXTS[name])
    assert links
    for link in links:
        if link.startswith("#"):
            assert link[1:] in anchors, link
        elif "://" not in link:
            assert (ROOT / link).exists(), link


@each
def test_every_path_of_the_layout_exists(name: str) -> None:
    paths = re.findall(r"^\| `([\w./-]+)` \| ", layout(name), re.MULTILINE)
    assert len(paths) > 15
    for path in paths:
        assert (ROOT / path).exists(), path
        assert path.endswith("/") == (ROOT / path).is_dir(), path


def layout(name: str) -> str:
    """The section whose table begins with the catalog."""
    sections = re.split(r"^## ", TEXTS[name], flags=re.MULTILINE)
    return next(text for text in sections if "| `appliance/catalog/data/` |" in text)


@each
def test_every_room_of_the_launcher_is_in_the_layout(name: str) -> None:
    rooms = [path.parent.name for path in (ROOT / "appliance").glob("*/__init__.py")]
    assert len(rooms) > 5
    for room in rooms:
        assert f"`appliance/{room}/" in layout(name), room


@each
def test_files_that_are_named_in_a_sentence_exist(name: str) -> None:
    tops = {path.name for path in ROOT.iterdir()}
    prose = _BLOCK.sub("", TEXTS[name])
    for path in re.findall(r"`([\w.-]+/[\w./-]*\w)`", prose):
        if path.split("/")[0] in tops - {".venv"}:
            assert (ROOT / path).exists(), path


# Both


def test_both_have_the_same_headings_code_and_rows() -> None:
    english, chinese = TEXTS.values()
    shape = re.compile(r"^(#+) |^(\||```)", re.MULTILINE)
    assert shape.findall(english) == shape.findall(chinese)


def test_both_set_the_same_examples() -> None:
    english, chinese = (
        [re.sub(r"\s+#.*", "", text) for _, text in _BLOCK.findall(text)] for text in TEXTS.values()
    )
    assert english == chinese


@each
def test_the_two_commands_come_first_and_the_other_language_is_linked(name: str) -> None:
    top = "\n".join(TEXTS[name].splitlines()[:15])
    assert "make up" in top
    assert "make test" in top
    other = next(other for other in NAMES if other != name)
    assert f"]({other})" in top


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_said_of_a_machine_it_was_written_on(name: str) -> None:
    text = ALL[name]
    assert not re.search(r"(?<![\w.])/(?:home|work|Users|mnt|workspace)/", text)
    assert not re.search(r"\b(?:session|sandbox)s?\b", text, re.IGNORECASE)
    assert os.fspath(ROOT) not in text
