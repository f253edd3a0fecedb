"""The chosen profile: how it spreads the model, what it renders, and where it does not hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from appliance.catalog import load as catalog
from appliance.errors import ApplianceError
from appliance.plan import options
from appliance.plan.model_sizes import ARCHITECTURE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from appliance.config.model import Config
    from appliance.inventory.model import Inventory
    from appliance.plan.choice import Choice

DEFAULT = "default"


@dataclass(frozen=True)
class Layout:
    """How the model is spread over NPUs, one replica of it."""

    tensor_parallel_size: int
    expert_parallel: bool


def selected(config: Config, platform_name: str) -> catalog.Profile | None:
    """Return the profile that counts: none for `default`, and none on the CPU.

    On the CPU a profile has no effect but a warning, as `npus` and `product` have: all that is
    in one was measured on NPUs, and its lengths are more than the test model's maximum.
    """
    if config.profile == DEFAULT or platform_name != "ascend":
        return None
    return catalog.profiles()[config.profile]


def layout(config: Config, platform_name: str, inventory: Inventory) -> Layout:
    """Return the operator's word on it, else the profile's, else the platform's."""
    wanted, platform = config.parallel, catalog.platforms()[platform_name]
    ranks, experts = platform.tensor_parallel_size, platform.expert_parallel
    profile = selected(config, platform_name)
    if profile is not None:
        ranks = profile.unquantized_tensor_parallel_size
        release = catalog.releases()[config.release or platform.release]
        if quantized(inventory, options.added(config, release)):
            ranks = profile.tensor_parallel_size
        if (wanted.tensor_parallel_size or ranks) == profile.tensor_parallel_size:
            experts = profile.expert_parallel
    # vLLM refuses to spread experts that are not there.
    experts = experts and _has_experts(inventory)
    return Layout(
        tensor_parallel_size=wanted.tensor_parallel_size or ranks,
        expert_parallel=experts if wanted.expert_parallel is None else wanted.expert_parallel,
    )


def _has_experts(inventory: Inventory) -> bool:
    """Tell whether the model has experts, which one of which nothing is known may have."""
    if inventory.model_config is None:
        return True
    parts: list[Any] = [inventory.model_config]
    while parts:
        part = parts.pop()
        if not isinstance(part, dict):
            continue
        if any("expert" in key and value for key, value in part.items()):
            return True
        parts += part.values()
    return False


def quantized(inventory: Inventory, given: Sequence[options.Given]) -> bool:
    """Tell whether the weights are known to be quantised: by their config.json, or by an option.

    msmodelslim leaves config.json as it was and writes quant_model_description.json, which is
    not among what is known of a host: who serves such weights says so with `--quantization`.
    """
    described = inventory.model_config or {}
    return "quantization_config" in described or bool(options.given(given, "--quantization"))


def fits(profile: catalog.Profile, choice: Choice, inventory: Inventory) -> bool:
    """Tell whether the profile's lengths are the model's: not for another one that is known.

    One that is not in the catalog may be a copy under a name of its own; its architecture
    tells where that can't be.
    """
    if choice.known_model is not None:
        return choice.model.id in profile.models
    architectures = (inventory.model_config or {}).get("architectures")
    return not isinstance(architectures, list) or ARCHITECTURE in architectures


def limits(
    profile: catalog.Profile, choice: Choice, inventory: Inventory
) -> dict[str, float | None]:
    """Return how much the engine takes on, as options of `vllm serve`."""
    table: dict[str, float | None] = {
        "--max-num-seqs": profile.max_num_seqs,
        "--max-num-batched-tokens": profile.max_num_batched_tokens,
        "--gpu-memory-utilization": profile.memory_utilization,
    }
    if fits(profile, choice, inventory):
        table["--max-model-len"] = profile.max_model_len
    return table


def json_args(
    profile: catalog.Profile, choice: Choice, inventory: Inventory
) -> dict[str, Mapping[str, Any]]:
    """Return the profile's JSON options, less what this release or this model does not take."""
    variables = choice.release.additional_config_variables
    table: dict[str, Mapping[str, Any]] = {}
    for option, value in profile.json_args.items():
        kept = value
        if option == "--additional-config":
            kept = {key: item for key, item in value.items() if key not in variables}
        if kept and (option != "--hf-overrides" or fits(profile, choice, inventory)):
            table[option] = kept
    return table


def environment(profile: catalog.Profile, choice: Choice) -> dict[str, str]:
    """Return the variables that a release has in place of keys of `--additional-config`."""
    wanted = profile.json_args.get("--additional-config", {})
    variables = choice.release.additional_config_variables
    return {variables[key]: str(value) for key, value in wanted.items() if key in variables}


def check(config: Config, choice: Choice) -> None:
    """Refuse a profile that the release can't serve; raises config-invalid."""
    refused = choice.release.refused_profiles.get(config.profile)
    if selected(config, choice.platform_name) is not None and refused is not None:
        raise ApplianceError(
            "config-invalid",
            f"The profile {config.profile} does not work with {choice.release_name}: {refused}.",
            "Choose another `release` or another `profile`.",
        )


def _missing(config: Config, choice: Choice, inventory: Inventory) -> list[str]:
    """Return what the profile was measured with and this deployment has not."""
    measured = catalog.profiles()[config.profile].measured_on
    given = options.added(config, choice.release)
    missing = []
    if not quantized(inventory, given):
        missing.append(f"{measured['weights']} weights")
    draft = measured["draft_model"]
    if draft != "none" and options.given(given, "--speculative-config") is None:
        missing.append(f"a draft model ({draft})")
    return missing


def warnings(config: Config, choice: Choice, inventory: Inventory) -> list[str]:
    """Return where the profile is not what was measured."""
    name, profile = config.profile, selected(config, choice.platform_name)
    if profile is None:
        unused = f"`profile` means nothing on the platform {choice.platform_name}."
        return [] if name == DEFAULT else [unused]
    found = []
    if missing := _missing(config, choice, inventory):
        found.append(
            f"The profile {name} was measured with {' and '.join(missing)}: expect other numbers."
        )
    measured = profile.tensor_parallel_size
    if measured not in (choice.ranks, profile.unquantized_tensor_parallel_size):
        found.append(
            f"The profile {name} was measured with tensor_parallel_size {measured}, which BF16 "
            f"weights do not fit into, and runs with {choice.ranks}. For quantised weights add "
            "`--quantization ascend` to `server.extra_args`."
        )
    if choice.release.additional_config_variables:
        found.append(
            f"The profile {name} was measured with v0.22.1rc1 and later, not with "
            f"{choice.release_name}."
        )
    if not fits(profile, choice, inventory):
        found.append(
            f"The profile {name} is for {', '.join(profile.models)}: its lengths are not used "
            f"for {choice.model.id}."
        )
    return found
