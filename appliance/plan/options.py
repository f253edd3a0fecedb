"""What the operator adds to the engine's command line and environment by hand."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from appliance.catalog import load as catalog
from appliance.errors import ApplianceError
from appliance.plan import access, names, watching

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from typing_extensions import Self

    from appliance.config.model import Config
    from appliance.plan.choice import Choice

# As many devices as these ask for are put into the container: in `extra_args` they would win over
# the plan and find too few, or leave some idle.
_TENSOR = "Set `parallel.tensor_parallel_size` instead."
_DATA = "Set `parallel.data_parallel_size` instead."
_ONE_HOST = "Leave it out: the appliance serves from one host."
_REFUSED = {
    **access.REFUSED,
    "--tensor-parallel-size": _TENSOR,
    "--pipeline-parallel-size": _TENSOR,
    "--prefill-context-parallel-size": _TENSOR,
    "--data-parallel-size": _DATA,
    "--data-parallel-size-local": _DATA,
    "--data-parallel-rank": _DATA,
    "--data-parallel-start-rank": _DATA,
    "--data-parallel-external-lb": _DATA,
    "--data-parallel-hybrid-lb": _DATA,
    "--data-parallel-multi-port-external-lb": _DATA,
    "--nnodes": _ONE_HOST,
    "--node-rank": _ONE_HOST,
    # Without them there is no HTTP server, which everything else asks.
    "--headless": "Leave it out.",
    "--grpc": "Leave it out.",
    # The supervisor has to know it, too.
    "--shutdown-timeout": "Set `timeouts.drain` instead.",
    "--model": "Set `model.id` or `model.path` instead.",
    "--served-model-name": "Set `model.served_name` instead.",
}
# vLLM takes these short forms too; the same in every release that has them.
_SHORT = {
    "-ac": "--attention-config",
    "-asc": "--api-server-count",
    "-cc": "--compilation-config",
    "-dcp": "--decode-context-parallel-size",
    "-dp": "--data-parallel-size",
    "-dpa": "--data-parallel-address",
    "-dpb": "--data-parallel-backend",
    "-dpe": "--data-parallel-external-lb",
    "-dph": "--data-parallel-hybrid-lb",
    "-dpl": "--data-parallel-size-local",
    "-dpm": "--data-parallel-multi-port-external-lb",
    "-dpn": "--data-parallel-rank",
    "-dpp": "--data-parallel-rpc-port",
    "-dpr": "--data-parallel-start-rank",
    "-ep": "--enable-expert-parallel",
    "-h": "--help",
    "-n": "--nnodes",
    "-pcp": "--prefill-context-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-q": "--quantization",
    "-r": "--node-rank",
    "-sc": "--speculative-config",
    "-tp": "--tensor-parallel-size",
}
VISIBLE_INSIDE = "ASCEND_RT_VISIBLE_DEVICES"
BLOCKING = "ASCEND_LAUNCH_BLOCKING"
# Where HCCL and vLLM listen: what is allotted on the host's network, and what outranks it.
_LISTENING = (
    "HCCL_IF_BASE_PORT",
    "HCCL_HOST_SOCKET_PORT_RANGE",
    "HCCL_NPU_SOCKET_PORT_RANGE",
    "VLLM_PORT",
)
_MOST_MATCHES = 4


@dataclass(frozen=True)
class Given:
    """An option as vLLM's parser takes it.

    `name` is its full name, the positive one of a switch: `on` tells which is meant. `key` is
    what follows the first dot of a dotted form. `matches` are the names that `spelling`, the
    option as it is written, may stand for: there is one where it is understood.
    """

    name: str
    spelling: str
    key: str = ""
    on: bool = True
    values: tuple[str, ...] = ()
    matches: tuple[str, ...] = ()

    @property
    def value(self) -> str:
        """Its first value, an empty text where it has none."""
        return self.values[0] if self.values else ""


class Arguments(tuple[str, ...]):  # noqa: SLOT001 (a tuple can't have slots that hold something)
    """The words of `vllm serve`: the plan's, and then the operator's, which `added` are read."""

    planned: tuple[Given, ...]
    added: tuple[Given, ...]

    def __new__(
        cls, planned: Iterable[str], words: Sequence[str] = (), added: Sequence[Given] = ()
    ) -> Self:
        """Put both together; the plan's own words are all written in full."""
        mine = tuple(planned)
        made = super().__new__(cls, (*mine, *words))
        made.planned, made.added = read(mine, frozenset()), tuple(added)
        return made


def added(config: Config, release: catalog.Release) -> tuple[Given, ...]:
    """Return what the operator adds, as the release's vLLM takes it."""
    words = config.server.extra_args
    for word in words:
        if word.startswith("--") and re.match(r"--[\w.-]+\s", word):
            option, value = word.split(None, 1)
            raise ApplianceError(
                "config-invalid",
                f"{word!r} in `server.extra_args` is one word to vLLM.",
                f"Write two: [{option}, {value}].",
            )
    return _added(tuple(words), release.vllm) if words else ()


@lru_cache
def _added(words: tuple[str, ...], vllm: str) -> tuple[Given, ...]:
    return read(words, catalog.parser_options(vllm))


def read(words: Sequence[str], known: Collection[str]) -> tuple[Given, ...]:
    """Return the options in a list of words. `known` are the names that vLLM's parser knows.

    It takes `_` for `-`, whatever only one name begins with for that name, `--x=v` for `--x v`
    and `--x.key v` for a key of a JSON option (FlexibleArgumentParser, over argparse).
    """
    found: list[Given] = []
    for word in words:
        given = _given(word, known) if _begins_option(word) else None
        if given is not None and (given.matches or " " not in word):
            found.append(given)
        elif found:
            found[-1] = replace(found[-1], values=(*found[-1].values, word))
    return tuple(found)


def _begins_option(word: str) -> bool:
    number = word[1:].replace(".", "", 1).isdigit()
    return word.startswith("-") and word != "-" and not number


def _given(word: str, known: Collection[str]) -> Given:
    spelling, equals, value = word.partition("=")
    stem, _, key = spelling.partition(".")
    if stem.startswith("--"):
        stem = "--" + stem[2:].replace("_", "-")
    elif stem.startswith("-O"):
        # -O3 and -O=3 are not argparse's: vLLM replaces them.
        level = word[2:].removeprefix("=")
        name = "--optimization-level"
        return Given(name, "-O", values=(level,) if level else (), matches=(name,))
    matches = (stem,) if stem in known else tuple(sorted(n for n in known if n.startswith(stem)))
    if not matches and stem[:2] in known:
        # A value may follow an option of one letter at once.
        spelling, equals, value, matches = stem[:2], "=", word[2:], (stem[:2],)
    name = _SHORT.get(matches[0], matches[0]) if len(matches) == 1 else stem
    # `--no-x` is a switch's opposite, but an option of its own where there is no `--x`.
    on = not (len(matches) == 1 and name.startswith("--no-") and f"--{name[5:]}" in known)
    if not on:
        name = f"--{name[5:]}"
    return Given(name, spelling, key, on, (value,) if equals else (), matches)


def given(options: Iterable[Given], name: str) -> Given | None:
    """Return the one that counts of an option that may stand several times: the last."""
    return next((one for one in reversed(tuple(options)) if one.name == name), None)


def switched_on(options: Iterable[Given], name: str) -> bool:
    """Tell whether a switch is given, and its opposite not behind it."""
    found = given(options, name)
    return found is not None and found.on


def check(config: Config, choice: Choice) -> None:
    """Refuse what could not start, or would work against the plan; raises config-invalid."""
    for one in added(config, choice.release):
        _check_option(one, choice)
    if choice.platform_name == "ascend":
        _check_devices(config, choice)
        _check_blocking(config, choice)


def _check_option(one: Given, choice: Choice) -> None:
    if len(one.matches) > 1:
        more = " …" if len(one.matches) > _MOST_MATCHES else ""
        raise ApplianceError(
            "config-invalid",
            f"{one.spelling} in `server.extra_args` could be "
            f"{', '.join(one.matches[:_MOST_MATCHES])}{more}.",
            "Write the option in full.",
        )
    if not one.matches:
        _check_gone(one, choice.release)
    remedy = _REFUSED.get(_SHORT.get(one.name, one.name))
    experts = one.name == "--enable-expert-parallel"
    if experts and one.on != choice.expert_parallel:
        remedy = "Set `parallel.expert_parallel` instead."
    if remedy is not None and (one.on or experts):
        written = "" if one.spelling == one.name else f" ({one.name})"
        raise ApplianceError(
            "config-invalid",
            f"{one.spelling}{written} in `server.extra_args` would work against the plan.",
            remedy,
        )


def _check_gone(one: Given, release: catalog.Release) -> None:
    """Refuse an option that the release does not know, where it is known what to do without."""
    table = catalog.options()
    # In the order of the catalog; whoever abbreviates one that is gone means it too.
    begun = (name for name in table if name.startswith(one.name))
    option = one.name if one.name in table else next(begun, "")
    if not option:
        return
    row = table[option]
    if row.since is not None and _numbers(release.vllm) < _numbers(row.since):
        reason = f"is not in vLLM {release.vllm} yet"
    else:
        reason = f"is gone since vLLM {row.gone}" if row.gone else "is gone from vLLM"
    raise ApplianceError(
        "config-invalid", f"{option} {reason}: {row.instead}.", "Correct `server.extra_args`."
    )


def _check_devices(config: Config, choice: Choice) -> None:
    variables = config.container.environment
    if names.VISIBLE in variables:
        raise ApplianceError(
            "config-invalid",
            f"{names.VISIBLE} in `container.environment` is for Ascend Docker Runtime, and would "
            "work against the plan.",
            "Name the devices in `npus`, and the runtime in `container.runtime`.",
        )
    value = variables.get(VISIBLE_INSIDE)
    # A privileged container sees every device, under the host's numbers.
    if value is None or config.container.privileged:
        return
    wanted = ",".join(map(str, range(choice.ranks * choice.data_parallel_size)))
    if value.replace(" ", "") != wanted:
        raise ApplianceError(
            "config-invalid",
            f"{VISIBLE_INSIDE} is {value}, but in the container the devices are numbered from 0, "
            f"whatever their numbers on the host: here it could only be {wanted}.",
            "Leave it out; name the host's devices in `npus`.",
        )


def _check_blocking(config: Config, choice: Choice) -> None:
    """Refuse what vllm-ascend refuses when it starts (platform.py of v0.13.0 and later)."""
    if config.container.environment.get(BLOCKING) != "1":
        return
    options = added(config, choice.release)
    mode = last_json(options, "--compilation-config") or {}
    eager = switched_on(options, "--enforce-eager")
    if not eager and str(mode.get("cudagraph_mode", "")).upper() != "NONE":
        raise ApplianceError(
            "config-invalid",
            f"{BLOCKING}=1 does not go with graphs, and vllm-ascend refuses to start.",
            "Leave it out, or add `--enforce-eager` to `server.extra_args`.",
        )


def warnings(config: Config, choice: Choice, planned: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what is lost or at risk by what was set by hand.

    `planned` are the plan's own JSON options. Of an option that stands twice vLLM takes the
    last, so the operator's counts; of a JSON option it takes the last one whole.
    """
    options = added(config, choice.release)
    found = [
        *access.loosened(options),
        *watching.warnings(config, options),
        *_unknown(options, choice.release),
    ]
    for option, value in planned.items():
        by_hand = last_json(options, option)
        lost = sorted(set(value) - set(by_hand)) if by_hand is not None else []
        if lost:
            found.append(
                f"{option} in `server.extra_args` replaces the plan's own, whole: without "
                f"{', '.join(lost)}. The plan's is {compact(value)}."
            )
    if choice.platform_name != "ascend":
        return found
    variables = config.container.environment
    if config.server.network == "host":
        found += [
            f"{variable} is set by hand: it may collide with another appliance's ports."
            for variable in _LISTENING
            if variable in variables
        ]
    if config.container.privileged and VISIBLE_INSIDE not in variables:
        found.append(
            "A privileged container sees every NPU, and vLLM takes the first ones: where those "
            f"are not the plan's, name the plan's in {VISIBLE_INSIDE}, in ascending order."
        )
    return found


def _unknown(options: Sequence[Given], release: catalog.Release) -> list[str]:
    """Return a warning of each option that the release's vLLM does not know.

    It is not refused: an image may have another vLLM, and a plugin of vLLM may add options.
    """
    strangers = [one for one in options if not one.matches]
    if not strangers:
        return []
    import difflib

    found = []
    for one in strangers:
        near = difflib.get_close_matches(one.name, catalog.parser_options(release.vllm))
        meant = f" Did you mean {' or '.join(near)}?" if near else ""
        found.append(
            f"{one.spelling} in `server.extra_args` is no option of vLLM {release.vllm}, which "
            f"does not start with what it does not know.{meant}"
        )
    return found


def last_json(options: Iterable[Given], name: str) -> Mapping[str, Any] | None:
    """Return the value of a JSON option that counts, `None` where it is not given.

    One that is no JSON, which vLLM will refuse, is as good as empty. Of dotted forms vLLM makes
    one JSON option behind all others, which replaces them too (FlexibleArgumentParser).
    """
    found: dict[str, Any] | None = None
    dotted: dict[str, Any] = {}
    for one in options:
        if one.name != name:
            continue
        if one.key:
            dotted[one.key.partition(".")[0].removesuffix("+")] = one.value
            continue
        try:
            parsed = json.loads(one.value)
        except (ValueError, RecursionError):
            parsed = {}
        found = parsed if isinstance(parsed, dict) else {}
    return dotted or found


def merge(*tables: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Merge JSON options key by key; the later ones win."""
    merged: dict[str, dict[str, Any]] = {}
    for table in tables:
        for option, value in table.items():
            merged[option] = _merged(merged.get(option, {}), value)
    return merged


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(one)
    for key, value in other.items():
        mine = both.get(key)
        if isinstance(mine, dict) and isinstance(value, dict):
            both[key] = _merged(mine, value)
        else:
            both[key] = value
    return both


def compact(value: Mapping[str, Any]) -> str:
    """Return a JSON object in one line without spaces, its keys in order."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
