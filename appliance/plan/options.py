"""What the operator adds to the engine's command line and environment by hand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from appliance.catalog import load as catalog
from appliance.errors import ApplianceError
from appliance.plan import names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from appliance.config.model import Config
    from appliance.plan.choice import Choice

# As many devices as these ask for are put into the container: in `extra_args` they would win over
# the plan and find too few, or leave some idle.
_PARALLEL = {
    "--tensor-parallel-size": "`parallel.tensor_parallel_size`",
    "-tp": "`parallel.tensor_parallel_size`",
    "--data-parallel-size": "`parallel.data_parallel_size`",
    "-dp": "`parallel.data_parallel_size`",
    "--pipeline-parallel-size": "`parallel.tensor_parallel_size`",
    "-pp": "`parallel.tensor_parallel_size`",
}
# vLLM takes these short forms too (arg_utils.py of 0.13.0 and later).
_SHORT = {"-cc": "--compilation-config", "-ac": "--additional-config"}
VISIBLE_INSIDE = "ASCEND_RT_VISIBLE_DEVICES"
BLOCKING = "ASCEND_LAUNCH_BLOCKING"
# Where HCCL and vLLM listen: what is allotted on the host's network, and what outranks it.
_LISTENING = (
    "HCCL_IF_BASE_PORT",
    "HCCL_HOST_SOCKET_PORT_RANGE",
    "HCCL_NPU_SOCKET_PORT_RANGE",
    "VLLM_PORT",
)


def name(word: str) -> str:
    """Return an option's name as vLLM takes it, and an empty text for what is no option.

    `--swap_space=4` is `--swap-space`, `--limit-mm-per-prompt.image` is `--limit-mm-per-prompt`.
    """
    if not word.startswith("-") or word.lstrip("-")[:1].isdigit():
        return ""
    return word.partition("=")[0].partition(".")[0].replace("_", "-")


def check(config: Config, choice: Choice) -> None:
    """Refuse what could not start, or would work against the plan; raises config-invalid."""
    for word in config.server.extra_args:
        option = name(word)
        if option in _PARALLEL:
            raise ApplianceError(
                "config-invalid",
                f"{option} in `server.extra_args` would work against the plan.",
                f"Set {_PARALLEL[option]} instead.",
            )
        if option:
            _check_known(option, choice.release)
    if choice.platform_name == "ascend":
        _check_devices(config, choice)
        _check_blocking(config)


def _check_known(option: str, release: catalog.Release) -> None:
    row = catalog.options().get(option)
    if row is None:
        return
    version = _numbers(release.vllm)
    gone = row.gone is not None and version >= _numbers(row.gone)
    young = row.since is not None and version < _numbers(row.since)
    if not (gone or young or (row.gone is None and row.since is None)):
        return
    if young:
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


def _check_blocking(config: Config) -> None:
    """Refuse what vllm-ascend refuses when it starts (platform.py of v0.13.0 and later)."""
    if config.container.environment.get(BLOCKING) != "1":
        return
    given = last_json(config.server.extra_args, "--compilation-config")
    eager = "--enforce-eager" in map(name, config.server.extra_args)
    if not eager and str((given or {}).get("cudagraph_mode", "")).upper() != "NONE":
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
    found = []
    for option, value in planned.items():
        given = last_json(config.server.extra_args, option)
        lost = sorted(set(value) - set(given)) if given is not None else []
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


def last_json(words: Sequence[str], option: str) -> Mapping[str, Any] | None:
    """Return the value of a JSON option that counts, `None` where it is not given.

    One that is no JSON, which vLLM will refuse, is as good as empty. Of dotted forms vLLM makes
    one JSON option behind all others, which replaces them too (FlexibleArgumentParser).
    """
    found: dict[str, Any] | None = None
    dotted: dict[str, Any] = {}
    for index, word in enumerate(words):
        short = name(word)
        if _SHORT.get(short, short) != option:
            continue
        key, equals, text = word.partition("=")
        value = text if equals else "".join(words[index + 1 : index + 2])
        if "." in key:
            dotted[key.split(".")[1]] = value
            continue
        try:
            parsed = json.loads(value)
        except ValueError:
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
