"""Results as text, JSON and JUnit XML."""

from __future__ import annotations

import json
import os
import re
import xml.etree.ElementTree as ET
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from healthchecks.target import ProbeResult

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def text_line(result: ProbeResult, width: int) -> str:
    """Return a result as one line, its probe name padded to ``width`` characters."""
    mark = "ok" if result.verdict == "ok" else "skip" if result.ok else "FAIL"
    return f"{mark:<4}  {result.probe:<{width}}  {result.seconds:8.3f} s  {described(result)}"


def described(result: ProbeResult) -> str:
    """Return the verdict, unless all is well, and the detail."""
    return result.detail if result.verdict == "ok" else f"{result.verdict}: {result.detail}"


def summary(results: Sequence[ProbeResult]) -> str:
    """Return the outcome of a run as one line."""
    failed = [f"{result.probe} ({result.verdict})" for result in results if not result.ok]
    refused = [result.probe for result in results if result.ok and result.verdict != "ok"]
    seconds = sum(result.seconds for result in results)
    seed = next((f"; seed {result.seed}" for result in results if result.seed), "")
    if failed:
        names = ", ".join(failed)
        return f"{len(failed)} of {len(results)} probes FAILED in {seconds:.1f} s: {names}{seed}"
    if refused:
        seed = f"; not supported: {', '.join(refused)}{seed}"
    return f"all {len(results) - len(refused)} probes passed in {seconds:.1f} s{seed}"


def to_json(results: Sequence[ProbeResult]) -> str:
    """Return the results as one JSON list of objects with the fields of ProbeResult."""
    return json.dumps([asdict(result) for result in results], indent=2)


def write_junit(results: Sequence[ProbeResult], path: str | os.PathLike[str]) -> None:
    """Write the results as a JUnit XML file; one that is there is replaced in one step.

    Raises:
        OSError: the file cannot be written. A file that was there is then unchanged.

    """
    _replace(Path(path), _junit(results))


def write_json(results: Sequence[ProbeResult], path: str | os.PathLike[str]) -> None:
    """Write the results as a JSON file; one that is there is replaced in one step.

    Raises:
        OSError: the file cannot be written. A file that was there is then unchanged.

    """
    _replace(Path(path), f"{to_json(results)}\n".encode())


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _junit(results: Sequence[ProbeResult]) -> bytes:
    suite = ET.Element(
        "testsuite",
        name="smoke",
        tests=str(len(results)),
        failures=str(sum(not result.ok for result in results)),
        errors="0",
        skipped=str(sum(result.ok and result.verdict != "ok" for result in results)),
        time=f"{sum(result.seconds for result in results):.3f}",
    )
    for result in results:
        case = ET.SubElement(
            suite,
            "testcase",
            classname="healthchecks.smoke",
            name=_xml_text(result.probe),
            time=f"{result.seconds:.3f}",
        )
        if result.seed is not None:
            properties = ET.SubElement(case, "properties")
            ET.SubElement(properties, "property", name="seed", value=_xml_text(result.seed))
        detail = _xml_text(described(result))
        if result.verdict == "ok":
            ET.SubElement(case, "system-out").text = detail
        elif result.ok:
            ET.SubElement(case, "skipped", message=detail)
        else:
            ET.SubElement(case, "failure", type=result.verdict, message=detail).text = detail
    ET.indent(suite)
    document: bytes = ET.tostring(suite, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def _xml_text(text: str) -> str:
    return _NOT_XML.sub(lambda match: f"\\x{ord(match[0]):02x}", text)
