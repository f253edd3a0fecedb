"""What npu-smi prints, in every layout, whole and damaged.

The tables here are made up, in the shapes that npu-smi prints. Where the folder of published
outputs lies beside the repository, all of those are read too, against its index.
"""

# ruff: noqa: E501 (a table is as wide as npu-smi prints it)

from __future__ import annotations

import csv
import random
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from appliance.catalog import chips
from appliance.inventory import mapping, npu_smi, read, topology, trouble
from appliance.inventory.table import Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.inventory.model import Npu

CAPTURES = Path(__file__).resolve().parents[3] / "shared" / "captures" / "npu-smi"

A2 = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 25.5.1                   Version: 25.5.1                                               |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 2     910B3               | OK            | 95.1        41                0    / 0             |
| 0                         | 0000:C1:00.0  | 12          0    / 0          13281/ 65536         |
+===========================+===============+====================================================+
| 3     910B3               | Warning       | 90.8        40                0    / 0             |
| 0                         | 0000:01:00.0  | 0           0    / 0          3312 / 65536         |
+===========================+===============+====================================================+
| 7     910B3               | OK            | 93.3        44                0    / 0             |
| 0                         | 0000:42:00.0  | 0           0    / 0          61007/ 65536         |
+===========================+===============+====================================================+
+---------------------------+---------------+----------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| 2       0                 | 4711          | python3.11 -m x          | 9871                    |
| 2       0                 | 4712          |                          | 107                     |
+===========================+===============+====================================================+
| No running processes found in NPU 3                                                            |
+===========================+===============+====================================================+
| 7       0                 | 910           | a|b / 910B3              | 57704                   |
+===========================+===============+====================================================+
"""

A2_WIDE = """\
+------------------------------------------------------------------------------------------------------------------+
| npu-smi 26.0.rc1                            Version: 26.0.rc1                                                    |
+---------------------------+---------------+----------------------------------------------------------------------+
| NPU   Name                | Health        | Power(W)             Temp(C)                 Hugepages-Usage(page)   |
| Chip                      | Bus-Id        | AICore(%)            Memory-Usage(MB)        HBM-Usage(MB)           |
+===========================+===============+======================================================================+
| 0     910B4               | OK            | 84.4                 33                      0    / 0                |
| 0                         | 0000:C1:00.0  | 0                    0    / 0                2868 / 32768            |
+===========================+===============+======================================================================+
+---------------------------+---------------+----------------------------------------------------------------------+
| NPU     Chip              | Process id    | Process name       | Process memory(MB)    | Process id in container |
+===========================+===============+======================================================================+
| 0       0                 | 351533        | VLLM::Worker       | 24410                 | 1087                    |
| 0       0                 | 351700        |                    | 12                    | NA                      |
+===========================+===============+======================================================================+
"""

FIRST_GENERATION = """\
+-------------------------------------------------------------------------------------------+
| npu-smi 22.0.4                    Version: 22.0.4.B031                                    |
+----------------------+---------------+----------------------------------------------------+
| NPU   Name           | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                 | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+======================+===============+====================================================+
| 0     910A           | OK            | 68.0        41                15   / 15            |
| 0                    | 0000:61:00.0  | 0           1931 / 15077      17   / 32768         |
+======================+===============+====================================================+
| 5     910ProB        | Alarm         | 66.1        39                15   / 15            |
| 0                    | 0000:B1:00.0  | 0           1847 / 15137      30711/ 32768         |
+======================+===============+====================================================+
"""

A3 = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 25.3.rc1                 Version: 25.3.rc1                                             |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip  Phy-ID              | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 1     Ascend910           | OK            | 163.9       36                0    / 0             |
| 0     2                   | 0000:99:00.0  | 0           0    / 0          3111 / 65536         |
+------------------------------------------------------------------------------------------------+
| 1     Ascend910           | Critical      | -           37                0    / 0             |
| 1     3                   | 0000:9B:00.0  | 0           0    / 0          2877 / 65536         |
+===========================+===============+====================================================+
| 5     Ascend910           | OK            | 170.2       35                0    / 0             |
| 0     10                  | 0000:89:00.0  | 88          0    / 0          59011/ 65536         |
+------------------------------------------------------------------------------------------------+
| 5     Ascend910           | OK            | -           36                0    / 0             |
| 1     11                  | 0000:8B:00.0  | 91          0    / 0          58822/ 65536         |
+===========================+===============+====================================================+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| No running processes found in NPU 1                                                            |
+===========================+===============+====================================================+
| 5       0                 | 62131         | VLLMWorker_TP            | 55901                   |
| 5       1                 | 62177         | VLLMWorker_TP            | 55902                   |
+===========================+===============+====================================================+
"""

DUO = """\
+--------------------------------------------------------------------------------------------------------+
| npu-smi 24.1.rc2                                 Version: 24.1.rc3                                     |
+-------------------------------+-----------------+------------------------------------------------------+
| NPU     Name                  | Health          | Power(W)     Temp(C)           Hugepages-Usage(page) |
| Chip    Device                | Bus-Id          | AICore(%)    Memory-Usage(MB)                        |
+===============================+=================+======================================================+
| 32768   310P3                 | OK              | NA           41                0     / 0             |
| 0       4                     | 0000:01:00.0    | 0            1529 / 44280                            |
+-------------------------------+-----------------+------------------------------------------------------+
| 32768   310P3                 | UNKNOWN         | NA           43                0     / 0             |
| 1       5                     | 0000:01:00.0    | 0            41412/ 43693                            |
+===============================+=================+======================================================+
+-------------------------------+-----------------+------------------------------------------------------+
| NPU     Chip                  | Process id      | Process name             | Process memory(MB)        |
+===============================+=================+======================================================+
| 32768   1                     | 310             | python                   | 39008                     |
+===============================+=================+======================================================+
"""

OLD_310 = """\
+------------------------------------------------------------------------------+
| npu-smi 20.2.2                       Version: 20.2.2                         |
+-------------------+-----------------+----------------------------------------+
| NPU     Name      | Health          | Power(W)          Temp(C)              |
| Chip    Device    | Bus-Id          | AICore(%)         Memory-Usage(MB)     |
+===================+=================+========================================+
| 6       310       | OK              | 12.8              55                   |
| 0       3         | 0000:89:00.0    | 0                 2703 / 8192          |
+-------------------+-----------------+----------------------------------------+
| 6       310       | OK              | 12.8              57                   |
| 1       4         | 0000:8A:00.0    | 0                 2867 / 8192          |
+===================+=================+========================================+
"""

SOC_310B = """\
| npu-smi 23.0.rc3                                 Version: 23.0.rc3                                     |
+-------------------------------+-----------------+------------------------------------------------------+
| NPU     Name                  | Health          | Power(W)     Temp(C)           Hugepages-Usage(page) |
| Chip    Device                | Bus-Id          | AICore(%)    Memory-Usage(MB)                        |
+===============================+=================+======================================================+
| 0       310B4                 | OK              | 7.6          51                15    / 15            |
| 0       0                     | NA              | 0            2161 / 3513                             |
+===============================+=================+======================================================+
"""

A5 = """\
+-------------------------------------------------------------------------------------------------+
| npu-smi 25.7.rc1                                 Version: 25.7.rc1                              |
+--------+------------------+---------------+-----------------------------------------------------+
| NPU ID | Name             | Health        | Power(W)    Temp(C)           Hugepages-Usage(page) |
|        |                  | Bus-Id        | NPU Util(%) Memory-Usage(MB)  HBM-Usage(MB)         |
+========+==================+===============+=====================================================+
| 0      | Ascend950PR      | OK            | 203.8       52                0     / 0             |
|        |                  | 0000:03:00.0  | 0           0    / 0          4803  / 114688        |
+========+==================+===============+=====================================================+
| 3      | Ascend950PR      | Offline       | 211.1       55                0     / 0             |
|        |                  | NA            | 100         0    / 0          106888/ 114688        |
+========+==================+===============+=====================================================+
+---------------------------+---------------+-----------------------------------------------------+
| NPU ID                    | Process id    | Process name             | Process memory(MB)       |
+===========================+===============+=====================================================+
| No running processes found in NPU 0                                                             |
+===========================+===============+=====================================================+
| 3                         | 2643474       | VLLMAPIServer            | 291                     |
| 3                         | 2645952       | VLLMWorker_DP            | 100596                  |
+===========================+===============+=====================================================+
"""

# npu_id, chip_id, name, health, total, used, (pid, name, MiB)…
Expected = tuple[int, int, str, str, int, int, tuple[tuple[int, str, int], ...]]
TABLES: dict[str, tuple[str, str, str, list[Expected]]] = {
    "a2": (A2, "atlas-a2", "25.5.1", [
        (2, 0, "910B3", "OK", 65536, 13281, ((4711, "python3.11 -m x", 9871), (4712, "", 107))),
        (3, 0, "910B3", "Warning", 65536, 3312, ()),
        (7, 0, "910B3", "OK", 65536, 61007, ((910, "a|b / 910B3", 57704),)),
    ]),
    "a2-wide": (A2_WIDE, "atlas-a2", "26.0.rc1", [
        (0, 0, "910B4", "OK", 32768, 2868, ((351533, "VLLM::Worker", 24410), (351700, "", 12))),
    ]),
    "first-generation": (FIRST_GENERATION, "unsupported", "22.0.4.B031", [
        (0, 0, "910A", "OK", 32768, 17, ()),
        (5, 0, "910ProB", "Alarm", 32768, 30711, ()),
    ]),
    "a3": (A3, "atlas-a3", "25.3.rc1", [
        (1, 0, "Ascend910", "OK", 65536, 3111, ()),
        (1, 1, "Ascend910", "Critical", 65536, 2877, ()),
        (5, 0, "Ascend910", "OK", 65536, 59011, ((62131, "VLLMWorker_TP", 55901),)),
        (5, 1, "Ascend910", "OK", 65536, 58822, ((62177, "VLLMWorker_TP", 55902),)),
    ]),
    "310p-duo": (DUO, "atlas-310p", "24.1.rc3", [
        (32768, 0, "310P3", "OK", 44280, 1529, ()),
        (32768, 1, "310P3", "UNKNOWN", 43693, 41412, ((310, "python", 39008),)),
    ]),
    "310-old": (OLD_310, "unsupported", "20.2.2", [
        (6, 0, "310", "OK", 8192, 2703, ()),
        (6, 1, "310", "OK", 8192, 2867, ()),
    ]),
    "310b": (SOC_310B, "unsupported", "23.0.rc3", [(0, 0, "310B4", "OK", 3513, 2161, ())]),
    "950": (A5, "ascend-950", "25.7.rc1", [
        (0, 0, "Ascend950PR", "OK", 114688, 4803, ()),
        (3, 0, "Ascend950PR", "Offline", 114688, 106888,
         ((2643474, "VLLMAPIServer", 291), (2645952, "VLLMWorker_DP", 100596))),
    ]),
}  # fmt: skip
EVERY = pytest.mark.parametrize("name", TABLES)


def facts(npu: Npu) -> Expected:
    """A die, less what the table does not say."""
    assert npu.name is not None
    assert npu.health is not None
    assert npu.hbm_total_mib is not None
    assert npu.hbm_used_mib is not None
    processes = tuple((p.pid, p.name, p.memory_mib) for p in npu.processes)
    ids = (npu.npu_id, npu.chip_id, npu.name, npu.health)
    return (*ids, npu.hbm_total_mib, npu.hbm_used_mib, processes)


def dies(tmp_path: Path, text: str | bytes) -> list[Expected]:
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "npu-smi-info.txt").write_bytes(data)
    return [facts(npu) for npu in read.snapshot(tmp_path).npus]


# Whole tables


@EVERY
def test_every_layout_is_read(tmp_path: Path, name: str) -> None:
    text, product, version, expected = TABLES[name]
    assert dies(tmp_path, text) == expected
    host = read.snapshot(tmp_path)
    assert (host.product, host.driver_version) == (product, version)
    table = npu_smi.read(text)
    assert (table.garbled, table.gaps, table.notes, table.outputs) == ((), (), (), 1)


def test_the_title_has_the_tool_first_and_the_driver_second() -> None:
    table = npu_smi.read(DUO)
    assert (table.tool_version, table.driver_version) == ("24.1.rc2", "24.1.rc3")


def test_a_npu_that_is_named_but_has_no_process_is_told_from_a_table_without_any() -> None:
    assert npu_smi.read(A2).asked == frozenset({2, 3, 7})
    assert npu_smi.read(FIRST_GENERATION).asked is None


def test_a_process_is_counted_for_the_chip_that_it_uses(tmp_path: Path) -> None:
    swapped = DUO.replace(
        "| 32768   1                     | 310 ", "| 32768   0                     | 310 "
    )
    assert [bool(die[6]) for die in dies(tmp_path, swapped)] == [True, False]


# The same, as people and programs pass it on


def broken(text: str, width: int) -> str:
    """A text as it is copied from a terminal of so many columns."""
    return "\n".join(
        line[at : at + width] for line in text.splitlines() for at in range(0, len(line), width)
    )


DISTORTED: dict[str, Callable[[str], str]] = {
    "windows lines": lambda text: text.replace("\n", "\r\n"),
    "two carriage returns": lambda text: text.replace("\n", "\r\r\n"),
    "indented": lambda text: re.sub("^", "        ", text, flags=re.MULTILINE),
    "tabs": lambda text: re.sub("^", "\t", text, flags=re.MULTILINE),
    "trailing blanks": lambda text: text.replace("\n", "     \n"),
    "quoted": lambda text: re.sub("^", "> ", text, flags=re.MULTILINE),
    "time stamps": lambda text: re.sub("^", "2026-01-02T03:04:05.678Z ", text, flags=re.MULTILINE),
    "of a compose log": lambda text: re.sub("^", "vllm-1  | ", text, flags=re.MULTILINE),
    "line numbers": lambda text: "".join(
        f"{n:6}\t{line}\n" for n, line in enumerate(text.splitlines(), 1)
    ),
    "numbers of grep": lambda text: "".join(
        f"{n}:{line}\n" for n, line in enumerate(text.splitlines(), 1)
    ),
    "no top border": lambda text: text[text.index("| npu-smi") :],
    "no border": lambda text: re.sub(r"^\+.*\n", "", text, flags=re.MULTILINE),
    "ragged borders": lambda text: re.sub(r"^(\+.*)\+$", r"\1--", text, flags=re.MULTILINE),
    "a border after every line": lambda text: text.replace("\n", "\n+------+------+\n"),
    "no heading": lambda text: "".join(
        line for line in text.splitlines(True) if not re.match(r"\| (npu-smi|NPU|Chip)|\|  +\|  +\| B", line)
    ),
    "no pipes at the ends": lambda text: re.sub(r" *\|$", "", text, flags=re.MULTILINE),
    "blank lines": lambda text: text.replace("\n", "\n\n"),
    "single blanks": lambda text: re.sub(" +", " ", text),
    "broken by a terminal": lambda text: "\n".join(
        line[at : at + 80] for line in text.splitlines() for at in range(0, len(line), 80)
    ),
    "colours": lambda text: re.sub("(OK|Warning|Alarm)", "\x1b[1;32m\\1\x1b[0m", text),
    "a byte order mark": lambda text: "\ufeff" + text,
    "box characters": lambda text: re.sub(r"^\|(.*)\|$", "│\\1│", text, flags=re.MULTILINE),
    "a fence": lambda text: f"```shell\n[root@host ~]# npu-smi info\n{text}```\n",
    "messages between the lines": lambda text: text.replace("\n", "\n[WARNING] something odd\n"),
    "cells that overflow": lambda text: text.replace("| OK            |", "| OK                 |"),
    "a service of a compose log": lambda text: re.sub("^", "npu-0  | ", text, flags=re.MULTILINE),
    "services with two figures": lambda text: "".join(
        f"npu-node-{n % 12}  | {line}\n" for n, line in enumerate(text.splitlines())
    ),
    "markdown escapes": lambda text: text.replace("|", "\\|"),
    "markdown escapes of more": lambda text: re.sub(r"([|+=_*])", r"\\\1", text),
    "pipes of a web page": lambda text: text.replace("|", "&#124;"),
    "pipes by name": lambda text: text.replace("|", "&vert;"),
    "blanks of a web page": lambda text: text.replace("  ", "&nbsp; "),
    "escaped twice": lambda text: text.replace("|", "&amp;#x7c;").replace("  ", " &amp;nbsp;"),
    "a string on one line": lambda text: text.replace("\n", "\\n"),
    "broken at 60 columns": lambda text: broken(text, 60),
    "broken at 43 columns, no blanks at the ends": lambda text: re.sub(
        " +$", "", broken(text, 43), flags=re.MULTILINE
    ),
    "figures at the slash": lambda text: re.sub(r"(\d) */ +(\d)", r"\1/\2", text),
}  # fmt: skip


@EVERY
@pytest.mark.parametrize("how", DISTORTED)
def test_what_happened_to_the_text_on_its_way_changes_nothing(
    tmp_path: Path, name: str, how: str
) -> None:
    text, product, _, expected = TABLES[name]
    text = DISTORTED[how](text)
    if how == "single blanks":
        expected = [
            (*die[:6], tuple((p, " ".join(n.split()), m) for p, n, m in die[6])) for die in expected
        ]
    if how == "figures at the slash":
        expected = [
            (
                *die[:6],
                tuple((p, re.sub(" */ *", "/", n) if "3 /" in n else n, m) for p, n, m in die[6]),
            )
            for die in expected
        ]
    assert dies(tmp_path, text) == expected
    assert read.snapshot(tmp_path).product == product


def test_text_that_is_no_unicode_is_read(tmp_path: Path) -> None:
    assert (
        dies(tmp_path, A2.replace("python3.11 -m x", "caf? -m x").encode().replace(b"?", b"\xe9"))[
            1:
        ]
        == (TABLES["a2"][3][1:])
    )


# Lost and odd lines


def row(text: str, number: int) -> Row:
    return npu_smi.read(text).rows[number]


def without(text: str, *starts: str) -> str:
    return "".join(line for line in text.splitlines(True) if not line.startswith(starts))


@pytest.mark.parametrize(
    ("cell", "health"),
    [("OK", "OK"), ("Alarm", "Alarm"), ("Critical", "Critical"), ("Not Supported", "Not Supported"),
     ("", None), ("NA", None)],
)  # fmt: skip
def test_health_is_as_it_is_printed(cell: str, health: str | None) -> None:
    text = A2.replace("| Warning       |", f"| {cell:<14}|")
    assert row(text, 1).health == health
    assert row(text, 1).npu_id == 3


@pytest.mark.parametrize("cell", ["xxx", "NA", "Ascend 910B3", "910B4-1", "310", "x y z"])
def test_names_are_as_they_are_printed(cell: str) -> None:
    text = A2.replace("| 3     910B3               |", f"| 3     {cell:<20}|")
    assert row(text, 1).name == (None if cell == "NA" else cell)
    assert [r.npu_id for r in npu_smi.read(text).rows] == [2, 3, 7]


def test_a_chip_with_no_name_is_still_a_chip() -> None:
    text = A2.replace("| 3     910B3               |", "| 3                         |")
    assert row(text, 1) == Row(3, 0, None, None, "Warning", "0000:01:00.0", 3312, 65536, 0)


@pytest.mark.parametrize(
    ("figures", "used", "total"),
    [
        ("0           0    / 0          3312 / 65536         ", 3312, 65536),
        ("100         0    / 0          65535/65536          ", 65535, 65536),
        ("0           0    / 0          -1   / 65536         ", None, 65536),
        ("0           0    / 0          NA   / NA            ", None, None),
        ("0           0    / 0          -    / -             ", None, None),
        ("0           0    / 0          N/A / 65536          ", None, 65536),
        ("0           0    / 0          0    / 0             ", None, None),
        ("0           0    / 0          -                    ", None, None),
        ("NA          NA   / NA         3312 / 65536         ", 3312, 65536),
        ("0           xxxx / 1xxxx      xxxx / 6xxxx         ", None, None),
        ("0           0    / 0                               ", None, None),
    ],
)
def test_memory_is_the_last_pair_of_figures(
    figures: str, used: int | None, total: int | None
) -> None:
    text = A2.replace("0           0    / 0          3312 / 65536         ", figures)
    assert text.count(figures) == 1
    assert (row(text, 1).used, row(text, 1).total) == (used, total)


def test_figures_that_were_blanked_out_cost_no_chip() -> None:
    text = A2.replace(
        "90.8        40                0    / 0 ", "xx.x        xx                *    / ? "
    )
    assert row(text, 1).health == "Warning"
    assert [r.npu_id for r in npu_smi.read(text).rows] == [2, 3, 7]


def test_the_memory_of_the_first_generation_is_its_hbm_and_not_its_ddr() -> None:
    first = row(FIRST_GENERATION, 0)
    assert (first.used, first.total, first.ddr_total) == (17, 32768, 15077)
    text = FIRST_GENERATION.replace("17   / 32768", "-           ")
    assert (row(text, 0).used, row(text, 0).total) == (None, None)


@pytest.mark.parametrize(
    "bus", ["NA", "-", "            ", "0000:82:00.1", "00000001:82:00.0", "0000:82:00.A"]
)
def test_a_chip_needs_no_address_on_the_bus(bus: str) -> None:
    text = A2.replace("0000:01:00.0", f"{bus:<12}")
    assert row(text, 1).total == 65536
    assert row(text, 1).bus_id == (bus if ":" in bus else None)


def test_a_row_that_lost_its_first_line_is_kept_apart() -> None:
    table = npu_smi.read(without(A2, "| 3     910B3"))
    assert [r.npu_id for r in table.rows] == [2, None, 7]
    assert (table.rows[1].name, table.rows[1].health, table.rows[1].used) == (None, None, 3312)


def test_a_row_that_lost_its_second_line_takes_no_other_chips_memory() -> None:
    lines = A2.splitlines(True)
    at = next(n for n, line in enumerate(lines) if line.startswith("| 3     910B3"))
    del lines[at + 1]
    table = npu_smi.read("".join(lines))
    assert [(r.npu_id, r.used) for r in table.rows] == [(2, 13281), (3, None), (7, 61007)]
    assert table.rows[1].half
    # Across "...", a first line and a second one are of different chips.
    lines[at + 1 :] = [
        "...\n",
        "| 0                         | 0000:42:00.0  | 0   0 / 0   61007/ 65536 |\n",
    ]
    table = npu_smi.read("".join(lines))
    assert [(r.npu_id, r.used) for r in table.rows] == [(2, 13281), (3, None), (None, 61007)]
    assert table.gaps[0] == "rows were left out"


def test_elided_rows_are_noticed() -> None:
    text = A2.replace(
        "| 3     910B3               | Warning", "...\n| 3     910B3               | Warning"
    )
    assert npu_smi.read(text).gaps == ("rows were left out",)
    assert npu_smi.read(text.replace("...", "|  ...  |  …  | ... |")).gaps == (
        "rows were left out",
    )
    assert npu_smi.read("...\n" + A2 + "...\n").gaps == ("rows were left out",)
    assert not npu_smi.read("...\n" + A2).gaps


@EVERY
def test_a_text_that_was_cut_anywhere_has_no_figure_that_the_whole_one_has_not(name: str) -> None:
    text = TABLES[name][0]
    whole = npu_smi.read(text)
    rows = {(r.npu_id, r.chip_id): r for r in whole.rows}
    for end in range(len(text)):
        part = npu_smi.read(text[:end])
        for found in part.rows:
            if found.half:
                fits = [r for r in whole.rows if r.npu_id == found.npu_id]
                assert fits, (end, found)
                assert found.name in (None, fits[0].name), (end, found)
                assert found.health in (None, *[r.health for r in fits]), (end, found)
                continue
            full = rows[found.npu_id, found.chip_id]
            for field in ("phy_id", "name", "health", "bus_id", "used", "total"):
                assert getattr(found, field) in (None, getattr(full, field)), (end, field)
        assert set(part.holders) <= set(whole.holders), end
        if len(part.rows) < len(whole.rows) and part.layout and "=\n" in text[:end]:
            assert part.gaps or text[:end].endswith(("+", "+\n", "=", "-")), (end, text[:end][-80:])


def test_the_last_of_several_outputs_counts() -> None:
    table = npu_smi.read(A2 + "\n\n" + A2.replace("3312 /", "9999 /").replace("| 4711 ", "| 4799 "))
    assert table.outputs == 2
    assert [r.used for r in table.rows] == [13281, 9999, 61007]
    assert [h.process.pid for h in table.holders] == [4799, 4712, 910]
    # One that was cut before its first chip says less than the one before.
    assert len(npu_smi.read(A2 + A3[:500]).rows) == 3


def test_processes_are_no_chips() -> None:
    """Rows of the process table look like those of chips; names can look like anything."""
    for evil in ("910B3", "OK", "0000:01:00.0", "Health", "Bus-Id", "Process id", "NPU", "Chip",
                 "0    / 0", "npu-smi", "No process", "...", "0", "NA", "-", "+---+"):  # fmt: skip
        text = A2.replace("python3.11 -m x         ", f"{evil:<24}")
        table = npu_smi.read(text)
        assert [r.npu_id for r in table.rows] == [2, 3, 7], evil
        assert table.holders[0].process.name == evil
        headless = npu_smi.read(re.sub(r"^\| NPU     Chip.*\n", "", text, flags=re.MULTILINE))
        assert [r.npu_id for r in headless.rows] == [2, 3, 7], evil
        assert len(headless.holders) == 3, evil


def test_a_process_that_could_not_be_asked_is_none() -> None:
    text = A5.replace(
        "| 2643474       | VLLMAPIServer            | 291  ",
        "| NA            | NA                       | NA   ",
    )
    assert [h.process.pid for h in npu_smi.read(text).holders] == [2645952]
    assert npu_smi.read(text).garbled == ()


def test_a_line_of_the_table_that_says_nothing_is_named() -> None:
    text = A2.replace(
        "| 3     910B3               | Warning       |",
        "| ?     910B3               | Warning       |",
    )
    assert npu_smi.read(text).garbled[0].startswith("| ?     910B3")


@EVERY
def test_no_damage_makes_it_raise_or_takes_a_process_for_a_chip(name: str) -> None:
    text, expected = TABLES[name][0], TABLES[name][3]
    npus = {die[0] for die in expected}
    pids = {str(process[0]) for die in expected for process in die[6]}
    chance = random.Random(name)  # noqa: S311 (the same every time)
    for _ in range(500):
        lines = text.splitlines(True)
        for _ in range(chance.randrange(4)):
            del lines[chance.randrange(len(lines))]
        damaged = list("".join(lines))
        for _ in range(chance.randrange(30)):
            at = chance.randrange(len(damaged))
            # Ids that were joined, or lost a digit, are other ids, which nobody can see.
            if not any(map(str.isdigit, "".join(damaged[max(0, at - 1) : at + 2]))):
                damaged[at] = chance.choice(["", "", " ", "|", "\x1b[0m"])
        for found in npu_smi.read("".join(damaged)).rows:
            assert found.npu_id in npus | {None}, (found, "".join(damaged))
        # Broken lines as well: their ends are not chips with a process's id.
        for _ in range(chance.randrange(9)):
            damaged[chance.randrange(len(damaged))] = "\n"
        for found in npu_smi.read("".join(damaged)).rows:
            assert str(found.npu_id) not in pids - {"310"}, (found, "".join(damaged))


def test_any_text_is_read_without_raising() -> None:
    chance = random.Random(8)  # noqa: S311 (the same every time)
    pieces = ["|", "+--+", "0", "910B3", "OK", "\n", " ", "/", "0000:01:00.0", "NPU", "Process id",
              "Bus-Id", "Chip", "Health", "npu-smi", "Version:", "X", "HCCS", "NPU0", "Phy-ID3", "...",
              "NPU ID", "Chip ID", "-", ":", "\t", "\r", "No running processes", "65536", "Total Count"]  # fmt: skip
    for _ in range(3000):
        text = "".join(chance.choices(pieces, k=chance.randrange(80)))
        npu_smi.read(text)
        mapping.read(text)
        mapping.listing(text)
        topology.read(text)
        trouble.problems(text.splitlines(), table=False)


# What was blanked out before it was published

REDACTED = ("xxx", "***", "-", "NA", "", "…", "?", "<x>")
ADDRESSES = (
    "xxxx:xx:xx.x",
    "0000:xx:00.0",
    "0000:**:00.0",
    "E3:00.0",
    "0000:E3:00",
    "****",
    "x",
    "hidden",
)
STATES = "OK|Warning|Alarm|Critical|UNKNOWN|Offline"
# Each cell of the rows, and what may change with it: which fields of a die or a process.
CELLS: dict[str, tuple[str, set[str]]] = {
    "npu": (rf"^\| (\d+)(?=.*\| (?:{STATES}) )", {"npu_id", "device", "cpu_affinity"}),
    "name": (rf"^\| \d+ [ |]+(\w+)(?= +\| (?:{STATES}) )", {"name"}),
    "health": (rf"\| ({STATES}) ", {"health"}),
    "power": (rf"\| (?:{STATES}) +\| (\S+)", set()),
    "temperature": (rf"\| (?:{STATES}) +\| \S+ +(\d+)", set()),
    "chip": (r"^\| (\d+)(?=.*0000:)", set()),
    "second id": (r"^\| \d+ +(\d+)(?=.*0000:)", {"device"}),
    "bus": (r"\| (0000:\S+)", {"bus_id"}),
    "load": (r"\| 0000:\S+ +\| (\d+)", set()),
    "used": (r"(\d+) */ *\d{4,} +\|$", {"hbm_used_mib"}),
    "total": (r"\d+ */ *(\d{4,}) +\|$", {"hbm_total_mib"}),
    "pid": (r"^\| \d+ +\d* +\| (\d+) ", {"pid"}),
    "process name": (r"^\| \d+ +\d* +\| \d+ +\| (\w[^|]*?) +\|", {"process"}),
    "process memory": (r"^\| \d+ +\d* +\| \d+ +\| [^|]* \| (\d+) ", {"memory"}),
    "container's pid": (r"^\| \d+ +\d* +\| \d+ +\|[^|]*\| \d+ +\| (\d+) ", set()),
}  # fmt: skip


def fields(npus: tuple[Npu, ...]) -> dict[tuple[int | str, ...], object]:
    """Every field of every die and process, by where it is."""
    found: dict[tuple[int | str, ...], object] = {}
    for at, npu in enumerate(npus):
        found |= {(at, k): v for k, v in vars(npu).items() if k != "processes"}
        for n, p in enumerate(npu.processes):
            found |= {
                (at, "pid", n): p.pid,
                (at, "process", n): p.name,
                (at, "memory", n): p.memory_mib,
            }
    return found


@EVERY
@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_that_was_blanked_out_costs_no_other(tmp_path: Path, name: str, cell: str) -> None:
    text = TABLES[name][0]
    pattern, own = CELLS[cell]
    (tmp_path / "npu-smi-info.txt").write_text(text, "utf-8")
    before = read.snapshot(tmp_path)
    whole = fields(before.npus)
    # An id that nothing else gives is lost, and its die with it: that has a test of its own.
    known = set(npu_smi.read(text).asked or ())
    for match in re.finditer(pattern, text, re.MULTILINE):
        if cell == "npu" and int(match[1]) not in known:
            continue
        for cover in (*REDACTED, *(ADDRESSES if cell == "bus" else ())):
            start, end = match.span(1)
            covered = text[:start] + f"{cover:<{end - start}}" + text[end:]
            (tmp_path / "npu-smi-info.txt").write_text(covered, "utf-8")
            host = read.snapshot(tmp_path)
            after = fields(host.npus)
            changed = {key for key in whole | after if whole.get(key) != after.get(key)}
            assert {key[1] for key in changed} <= own, (cover, covered)
            assert len(host.npus) == len(before.npus)
            assert "npu-row-broken" not in {problem.id for problem in host.problems}
            if cell not in ("name", "total"):
                assert host.product == before.product


@EVERY
@pytest.mark.parametrize("cover", [*REDACTED, *ADDRESSES])
def test_addresses_that_were_all_blanked_out_cost_nothing(
    tmp_path: Path, name: str, cover: str
) -> None:
    text, product, _, expected = TABLES[name]
    text = re.sub(r"0000:\S+", lambda m: f"{cover:<{len(m[0])}}", text)
    for given in (text, DISTORTED["no heading"](text)):
        assert dies(tmp_path, given) == expected
        host = read.snapshot(tmp_path)
        assert host.product == product
        assert {npu.bus_id for npu in host.npus} <= {None, cover}
        assert {p.id for p in host.problems}.isdisjoint({"npu-smi-garbled", "npu-row-broken"})


@pytest.mark.parametrize("text", [A3, DUO], ids=["a3", "310p-duo"])
@pytest.mark.parametrize("cover", REDACTED)
def test_chip_ids_that_were_all_blanked_out_are_counted(
    tmp_path: Path, text: str, cover: str
) -> None:
    covered = re.sub(r"^\| \d(?=.*0000:)", f"| {cover or ' '}", text, flags=re.MULTILINE)
    expected = dies(tmp_path, text)
    assert dies(tmp_path, covered) == expected


def test_an_npu_id_that_nothing_gives_costs_its_die_and_is_said(tmp_path: Path) -> None:
    text = FIRST_GENERATION.replace("| 5     910ProB", "| *     910ProB")
    assert [die[0] for die in dies(tmp_path, text)] == [0]
    problems = {problem.id: problem.message for problem in read.snapshot(tmp_path).problems}
    assert "| *     910ProB" in problems["npu-smi-garbled"]
    assert "npu-row-broken" not in problems
    alone = SOC_310B.replace("| 0       310B4", "| x       310B4")
    assert dies(tmp_path, alone) == []
    assert read.snapshot(tmp_path).product == "unsupported"


@pytest.mark.parametrize("cover", ["x", "*", "-", " "])
def test_a_process_whose_npu_was_blanked_out_is_none_that_holds_memory_unseen(
    tmp_path: Path, cover: str
) -> None:
    for text, line in (
        (A2, "| 7       0                 | 910"),
        (A3, "| 5       0                 | 62131"),
    ):
        for covered in (f"| {cover}{line[3:]}", f"{line[:10]}{cover}{line[11:]}"):
            expected = dies(tmp_path, text)
            found = dies(tmp_path, text.replace(line, covered))
            assert [die[:6] for die in found] == [die[:6] for die in expected]
            problems = {p.id: p.message for p in read.snapshot(tmp_path).problems}
            assert "npu-memory-held" not in problems
            # An A2 has one chip a card, which needs no id.
            lost = found != expected
            assert lost == (text is A3 or covered[2] != "7")
            assert (covered.strip() in problems.get("npu-smi-garbled", "")) == lost


def test_processes_with_no_pid_are_several(tmp_path: Path) -> None:
    text = A2.replace("| 4711 ", "| **** ").replace("| 4712 ", "| **** ")
    assert dies(tmp_path, text)[0][6] == ((0, "python3.11 -m x", 9871), (0, "", 107))


def test_a_process_can_have_a_fraction_of_memory(tmp_path: Path) -> None:
    text = A2.replace("| 9871   ", "| 9871.5 ")
    assert dies(tmp_path, text)[0][6][0] == (4711, "python3.11 -m x", 9871)


def test_two_dies_with_one_blanked_out_address_are_two(tmp_path: Path) -> None:
    text = re.sub(r"0000:\w\w:00.0", "0000:xx:00.0", A2)
    assert len(dies(tmp_path, text)) == 3


@pytest.mark.parametrize("bus", ["0000:01:00.0", "NA", "xxxx:xx:xx.x", "-"])
def test_a_die_that_is_called_ok_and_shows_no_memory_is_named(tmp_path: Path, bus: str) -> None:
    text = A2.replace("| Warning       |", "| OK            |")
    text = text.replace("3312 / 65536", "0    / 0    ").replace("0000:01:00.0", f"{bus:<12}")
    (tmp_path / "npu-smi-info.txt").write_text(text, "utf-8")
    host = read.snapshot(tmp_path)
    assert (host.npus[1].health, host.npus[1].hbm_total_mib, host.npus[1].hbm_used_mib) == (
        "OK", None, None,
    )  # fmt: skip
    (problem,) = host.problems[:1]
    assert problem.id == "npu-memory-unknown"
    assert problem.message.startswith("NPU 3 (910B3")


# What stands around a table

AFTER = """
## What each does

| number | part     | what it does              |
| 1      | decoder  | turns packets into frames |
| 2      | resizer  | 300 x 300 / 8             |
| 4      | OK       | 12 30 / 40                |
| 6      | python   | x           | 17          |
"""


@EVERY
@pytest.mark.parametrize("fence", ["", "```\n", "</pre>\n"])
def test_a_table_of_a_page_below_is_none_of_npu_smis(name: str, fence: str) -> None:
    text = TABLES[name][0]
    alone, found = npu_smi.read(text), npu_smi.read(text + fence + AFTER)
    assert (found.rows, found.holders, found.asked) == (alone.rows, alone.holders, alone.asked)
    assert (found.gaps, found.unclear) == ((), frozenset())
    assert len(found.garbled) == (0 if fence else 1)


@pytest.mark.parametrize(
    ("title", "tool", "driver"),
    [
        (
            "| npu-smi 23.0.3\uff08npu-smi工具版本\uff09   Version: 23.0.5\uff08npu驱动版本\uff09  |",
            "23.0.3",
            "23.0.5",
        ),
        ("| npu-smi 23.0.3(tool)   Version: 23.0.5(driver)  |", "23.0.3", "23.0.5"),
        ("| npu-smi 23.0.3, on node 4   Version: 23.0.5, loaded  |", "23.0.3", "23.0.5"),
        ("| npu-smi v23.0.3   Version: 23.0.5.B010\uff0c驱动 |", "v23.0.3", "23.0.5.B010"),
        ("| npu-smi 23.0.3\uff08工具\uff09 |", "23.0.3", None),
    ],
)
def test_a_remark_at_a_version_is_not_part_of_it(title: str, tool: str, driver: str | None) -> None:
    text = re.sub(r"^\| npu-smi.*$", title, A2, flags=re.MULTILINE)
    table = npu_smi.read(text)
    assert (table.tool_version, table.driver_version) == (tool, driver)


def test_an_ampersand_of_a_process_stays(tmp_path: Path) -> None:
    text = A2.replace("python3.11 -m x", "sh a&copy=1;b&c ")
    assert dies(tmp_path, text)[0][6][0][1] == "sh a&copy=1;b&c"


# `npu-smi info -m` and `-l`


def test_the_mapping_leaves_out_what_is_no_chip() -> None:
    text = """\
\tNPU ID                         Chip ID                        Chip Logic ID                  Chip Name
\t4                              0                              0                              Ascend 310P3
\t4                              1                              1                              Ascend 310P3
\t4                              2                              -                              Mcu
\t4                              3                              -                              3559
"""
    assert mapping.read(text) == (
        mapping.Mapped(4, 0, None, "Ascend 310P3"),
        mapping.Mapped(4, 1, None, "Ascend 310P3"),
    )


def test_the_mapping_of_newer_products_has_physical_ids() -> None:
    a3 = """\
NPU ID    Chip ID    Chip Logic ID    Chip Phy-ID    Chip Name
0         0          0                8              Ascend910
0         1          1                9              Ascend910
0         2          -                -              Mcu
"""
    assert [chip.phy_id for chip in mapping.read(a3)] == [8, 9]
    a5 = """\
NPU ID    Slot ID    Chip ID    Chip Phy-ID    Chip Name
3         -1         0          3              Ascend950DT
"""
    assert mapping.read(a5) == (mapping.Mapped(3, 0, 3, "Ascend950DT"),)


def test_a_table_of_chips_is_no_mapping() -> None:
    assert all(mapping.read(text) == () for text, *_ in TABLES.values())


def test_the_list_gives_the_npus_and_their_number() -> None:
    text = "\tTotal Count                    : 3\n\n" + "".join(
        f"\tNPU ID                         : {n}\n\tChip Count                     : 1\n\n"
        for n in (0, 1, 4)
    )
    assert mapping.listing(text) == mapping.Listing(frozenset({0, 1, 4}), 3)
    assert mapping.listing("\tCard Count                     : 2\n").total == 2
    assert mapping.listing(None) == mapping.Listing()


# `npu-smi info -t topo`

TOPO = """\
\t   NPU1       NPU2       NPU5       CPU Affinity
NPU1       X          HCCS       SYS        0-23
NPU2       HCCS       X          PIX        24-47,72-95
NPU5       SYS        PIX        X          48-71

Legend:

  X    = Self
  SYS  = Path traversing PCIe and NUMA nodes. Nodes are connected through SMP, such as QPI, UPI.
  HCCS = Connection traversing HCCS.
  NA   = Unknown relationship.
"""


@pytest.mark.parametrize(
    "text",
    [
        TOPO,
        TOPO.replace("\t   NPU1", "NPU1"),
        TOPO.replace("\n", "\r\n"),
        re.sub("^", "        ", TOPO, flags=re.MULTILINE),
        TOPO[TOPO.index("NPU1       X") :],
    ],
    ids=["as printed", "lost blanks", "windows", "indented", "no heading"],
)
def test_the_topology_is_read_without_its_legend(text: str) -> None:
    found = topology.read(text)
    assert found.unit == "npu"
    assert found.kinds == {(1, 2): "HCCS", (1, 5): "SYS", (2, 5): "PIX"}
    assert found.affinity == {1: "0-23", 2: "24-47,72-95", 5: "48-71"}


def test_the_topology_of_an_a3_goes_by_physical_id_and_may_have_network_cards() -> None:
    found = topology.read("""\
\t   Phy-ID4    Phy-ID5    Phy-ID6    NIC0     NIC1
Phy-ID4    X          SIO        HCCS_SW    SYS        PIX
Phy-ID5    SIO        X          HCCS_SW    SYS        PIX
Phy-ID6    HCCS_SW    HCCS_SW    X          SYS        PIX
NIC0       SYS        SYS        SYS        X          NA
NIC1       PIX        PIX        PIX        NA         X

NIC0: enp1s0
NIC1: enp2s0
""")
    assert (found.unit, found.affinity) == ("phy", {})
    assert found.kinds == {(4, 5): "SIO", (4, 6): "HCCS_SW", (5, 6): "HCCS_SW"}
    (link,) = topology.links(found, {4: 2, 5: 2, 6: 3})
    assert (link.a, link.b, link.kind) == (2, 3, "HCCS_SW")
    assert topology.links(found, {}) == ()


def test_one_npu_has_no_links() -> None:
    assert topology.read("     NPU0       CPU Affinity\nNPU0       X          0-23\n").affinity == {
        0: "0-23"
    }
    assert topology.read("This device does not support querying topo.\n") == topology.Topology()


# What is printed instead

SAID = {
    "dcmi module initialize failed. ret is -8005": "npu-access-denied",
    "dcmi model initialized failed, because the device is used. ret is -8020": "npu-in-use",
    "npu get board type failed. ret is -9005": "npu-board-unknown",
    "dcmi module initialize failed. ret is -8012": "npu-not-ready",
    "dcmi module initialize failed. ret is -8013": "npu-not-in-container",
    "dcmi module initialize failed. ret is -8002": "npu-smi-denied",
    "dcmi module initialize failed. ret is -8008": "npu-absent",
    "dcmi module initialize failed. ret is -8255": "npu-query-failed",
    "Failed to execute npu-smi info. ret is -8255.": "npu-query-failed",
    "npu_get_card_device_id failed. err is -9006": "npu-query-failed",
    "Failed to get card number.": "npu-query-failed",
    "DrvMngGetConsoleLogLevel failed. (g_conLogLevel=3)": "driver-log-level",
    "DrvMngGetConsoleLogLevel failed. (ret=4)": "driver-log-level",
    "bash: npu-smi: command not found": "npu-smi-missing",
    "/tmp/a.sh: line 1: npu-smi: command not found": "npu-smi-missing",
    "zsh: command not found: npu-smi": "npu-smi-missing",
    "sh: 1: npu-smi: not found": "npu-smi-missing",
    "-bash: /usr/local/bin/npu-smi: No such file or directory": "npu-smi-missing",
    "bash: npu-smi\uff1a未找到命令": "npu-smi-missing",
    'exec: "npu-smi": executable file not found in $PATH': "npu-smi-missing",
    "-bash: /usr/local/sbin/npu-smi: Permission denied": "npu-smi-denied",
    "bash: /usr/local/bin/npu-smi: Is a directory": "npu-smi-wrong-file",
    "bash: /usr/local/bin/npu-smi: cannot execute binary file: Exec format error": (
        "npu-smi-wrong-file"
    ),
    "npu-smi: error while loading shared libraries: libc_sec.so: cannot open shared object file:"
    " No such file or directory": "driver-library-missing",
    "npu-smi: /lib64/libc.so.6: version `GLIBC_2.34' not found (required by npu-smi)": (
        "driver-library-missing"
    ),
    "Segmentation fault (core dumped)": "npu-smi-crashed",
    "npu-smi timed out": "npu-smi-timeout",
    "Invalid card id.": "npu-absent",
    "There is no NPU card on this server.": "npu-absent",
    "Command or option is not found.": "npu-smi-usage",
    "[WARNING]The driver package may not be completely installed, which may cause function "
    "abnormal. Please reinstall it.": "driver-incomplete",
}


@pytest.mark.parametrize("line", SAID)
def test_every_failure_has_a_name_a_cause_and_a_remedy(line: str) -> None:
    (problem,) = trouble.problems([line], table=False)
    assert problem.id == SAID[line]
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", problem.id)
    assert len(problem.remedy) > 20
    assert "{" not in problem.message.replace("{{", "")
    assert "{group}" not in problem.remedy
    about_the_tool = problem.id not in {"npu-absent", "driver-incomplete", "npu-smi-usage"}
    assert ("does not mean that there is no NPU" in problem.message) == about_the_tool


def test_the_companion_of_another_error_is_not_said_twice() -> None:
    lines = [
        "DrvMngGetConsoleLogLevel failed. (ret=4)",
        "dcmi … ret is -8020",
        "dcmi … ret is -8020",
    ]
    assert [p.id for p in trouble.problems(lines, table=False)] == ["npu-in-use"]


def test_two_errors_are_both_named() -> None:
    lines = ["npu get board type failed. ret is -9005", "because the device is used. ret is -8020"]
    found = [p.id for p in trouble.problems(lines, table=False)]
    assert found == ["npu-in-use", "npu-board-unknown"]


def test_the_group_is_the_drivers_own() -> None:
    (problem,) = trouble.problems(["ret is -8005"], "npuusers", table=False)
    assert "npuusers" in problem.message
    assert "usermod -aG npuusers" in problem.remedy


def test_what_was_overcome_before_a_table_is_not_said() -> None:
    assert trouble.problems(["bash: npu-smi: command not found"], table=True) == []


def test_a_very_long_line_is_shown_in_part() -> None:
    (problem,) = trouble.problems(["npu-smi: " + "x" * 9999 + " Permission denied"], table=False)
    assert len(problem.message) < 500


# The catalog's chips


@pytest.mark.parametrize(
    ("name", "layout", "product"),
    [
        *((name, "chip", "atlas-a2") for name in (
            "910B1", "910B2", "910B2C", "910B3", "910B4", "910B4-1", "Ascend910B4", "Ascend 910B3")),
        ("Ascend910", "phy-id", "atlas-a3"),
        *((name, "chip", "atlas-a2") for name in (
            "910B3vir05_1c_16g", "910B1vir10_3c_32g", "910B2vir12_3c_32g", "910B2Cvir06_1c_16g",
            "910B4vir05_1c_8g", "910B4-1vir10_4c_16g_m", "Ascend910B4-vir03_1c_8g",
            "Ascend 910B3vir05_1c_16g")),
        ("Ascend910_9392", "phy-id", "atlas-a3"),
        ("910_9362", "phy-id", "atlas-a3"),
        ("310P1", "device", "atlas-310p"),
        ("310P3", "device", "atlas-310p"),
        ("Ascend950PR", "npu", "ascend-950"),
        ("Ascend950DT", "npu", "ascend-950"),
        *((name, "chip", "unsupported") for name in (
            "910A", "910ProA", "910ProB", "910PremiumA", "910B")),
        *((name, "device", "unsupported") for name in ("310", "310B", "310B4", "MiniD")),
        ("Ascend910", "chip", "unknown"),
        ("610", "device", "unknown"),
        ("910X", "chip", "unknown"),
    ],
)  # fmt: skip
def test_a_name_makes_a_product(name: str, layout: str, product: str) -> None:
    assert chips.product_of(name, layout).product == product


@pytest.mark.parametrize(
    ("layout", "ddr", "product"),
    [
        ("chip", True, "unsupported"),
        ("chip", False, "atlas-a2"),
        ("chip", None, "unknown"),
        ("phy-id", False, "atlas-a3"),
        ("npu", False, "ascend-950"),
        ("device", None, "unknown"),
        (None, None, "unknown"),
    ],
)
@pytest.mark.parametrize("name", ["xxx", "XXX", "Ascendxxx", "NA", "***", "…", "<name>", None])
def test_a_redacted_name_leaves_the_layout(
    name: str | None, layout: str | None, ddr: bool | None, product: str
) -> None:
    assert chips.product_of(name, layout, ddr=ddr).product == product


def test_every_product_of_the_catalog_can_be_told() -> None:
    products = {chip.product for chip in chips.chips()} | {row.product for row in chips.layouts()}
    assert products == {"atlas-a2", "atlas-a3", "atlas-310p", "ascend-950", "unsupported"}
    for chip in chips.chips():
        re.compile(chip.match)


def test_a_chip_of_two_sizes_is_told_by_its_total() -> None:
    assert chips.variant("910B4", 32768) == "910B4"
    assert chips.variant("910B4", 65536) == "910B4-1"
    assert chips.variant("910B3", 65536) == "910B3"
    assert chips.variant("no such chip", 1) == "no such chip"


def test_a_vnpu_is_of_its_chips_product_and_has_its_own_memory(tmp_path: Path) -> None:
    text = A2.replace("910B3            ", "910B3vir05_1c_16g").replace("/ 65536", "/ 16384")
    text = text.replace("13281/", "4907 /").replace("61007/", "15007/")
    assert [die[2:6:3] for die in dies(tmp_path, text)] == [
        ("910B3vir05_1c_16g", 4907), ("910B3vir05_1c_16g", 3312), ("910B3vir05_1c_16g", 15007),
    ]  # fmt: skip
    host = read.snapshot(tmp_path)
    assert host.product == "atlas-a2"
    assert {npu.hbm_total_mib for npu in host.npus} == {16384}
    assert 14.5 < chips.usable_bytes("910B3vir05_1c_16g", 16384) / 1024**3 < 15
    assert 7 < chips.usable_bytes("910B4vir05_1c_8g", 8192) / 1024**3 < 7.5


def test_a_process_can_have_less_than_the_whole_memory() -> None:
    gib = 1024**3
    assert chips.usable_bytes("910B3", 65536) == int(60.97 * gib)
    assert chips.usable_bytes("Ascend910", 65536) == int(60.97 * gib)
    assert chips.usable_bytes("910B4", 32768) == int(29.49 * gib)
    for total in (16384, 44280, 98304, 131072):
        assert 0.9 * total < chips.usable_bytes(None, total) / 1024**2 < total


# Published outputs, where they are at hand

INDEX = (
    list(csv.DictReader((CAPTURES / "INDEX.tsv").read_text("utf-8").splitlines(), delimiter="\t"))
    if (CAPTURES / "INDEX.tsv").is_file()
    else []
)
OUTPUTS = [line for line in INDEX if line["command"] == "npu-smi info" and line["npu_names"]]
PRODUCTS = {
    "A2": "atlas-a2", "A3": "atlas-a3", "A5(950)": "ascend-950", "310P": "atlas-310p",
    "310": "unsupported", "310B": "unsupported", "910A/ProB (A1)": "unsupported",
}  # fmt: skip


def test_the_published_outputs_are_all_here_or_it_is_said_that_they_are_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not CAPTURES.is_dir():
        with capsys.disabled():
            print(f"\nNOT CHECKED: published outputs of npu-smi; there is no {CAPTURES}.")
        return
    assert len(list(CAPTURES.glob("*.txt"))) > 80
    assert len(OUTPUTS) > 35


@pytest.mark.parametrize("line", OUTPUTS or [{}], ids=lambda line: line.get("file", "none here"))
def test_a_published_output_is_read_as_its_index_has_it(
    tmp_path: Path, line: dict[str, str]
) -> None:
    if not line:
        return  # The test above says so.
    shutil.copy(CAPTURES / line["file"], tmp_path / "npu-smi-info.txt")
    host = read.snapshot(tmp_path)
    names = {npu.name for npu in host.npus}
    assert names == set(line["npu_names"].split(","))
    redacted_310b = line["product"] == "310B" and names == {"xxx"}
    assert host.product == ("unknown" if redacted_310b else PRODUCTS[line["product"]])
    if line["npus/chips"] != "/":
        found = f"{len({npu.npu_id for npu in host.npus})}/{len(host.npus)}"
        assert found == line["npus/chips"]
    if line["driver_version"]:
        assert host.driver_version == line["driver_version"].split(" ")[0]
    notable = line["notable"]
    processes = re.search(r"\bprocesses:(\d+)", notable)
    assert sum(len(npu.processes) for npu in host.npus) == int(processes[1] if processes else 0)
    bad = re.search(r"unhealthy:(\w+)x(\d+)", notable)
    unhealthy = [npu.health for npu in host.npus if npu.health != "OK"]
    assert unhealthy == ([bad[1]] * int(bad[2]) if bad else [])
    for npu in host.npus:
        assert npu.hbm_total_mib is not None
        assert npu.hbm_used_mib is not None
        assert 0 <= npu.hbm_used_mib <= npu.hbm_total_mib
    idle = re.search(r"no-running-processes lines:(\d+)", notable)
    asked = npu_smi.read((CAPTURES / line["file"]).read_text("utf-8")).asked
    if idle:
        busy = {npu.npu_id for npu in host.npus if npu.processes}
        assert len((asked or frozenset()) - busy) == int(idle[1])
    assert ("npu-smi-cut" in {p.id for p in host.problems}) == (
        "poster cut" in notable or "author elided rows" in notable
    )


@pytest.mark.parametrize("line", INDEX or [{}], ids=lambda line: line.get("file", "none here"))
def test_no_published_file_makes_anything_raise(tmp_path: Path, line: dict[str, str]) -> None:
    if not line:
        return
    for name in ("npu-smi-info.txt", "npu-smi-info-m.txt", "npu-smi-info-l.txt", "npu-smi-topo.txt",
                 "dev.txt", "driver-version.info", "ascend_install.info"):  # fmt: skip
        shutil.copy(CAPTURES / line["file"], tmp_path / name)
        host = read.snapshot(tmp_path)
        assert all(problem.message and problem.remedy for problem in host.problems)
    if "ERROR" in line["notable"]:
        shutil.copy(CAPTURES / line["file"], tmp_path / "npu-smi-info.txt")
        (tmp_path / "dev.txt").write_text("/dev/davinci0\n", "utf-8")
        host = read.snapshot(tmp_path)
        assert host.product == "unknown"
        named = {problem.id for problem in host.problems} - {"product-unknown"}
        assert named & set(SAID.values())
