"""Plans of simulated hosts: exactly what goes into the container, and what is refused.

The hosts are folders under tests/hosts/. Those named `synthetic-` were written by hand after
the vendor's documents; no such machine was read.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from appliance.config.load import load
from appliance.errors import ApplianceError
from appliance.inventory import read
from appliance.inventory.model import FileFacts, Inventory, ProductName
from appliance.plan.make import make
from appliance.plan.model import Device, Mount, Plan, Port, Ulimit
from appliance.version import __version__

if TYPE_CHECKING:
    from appliance.config.model import Config

pytestmark = pytest.mark.usefixtures("clean")

HOSTS = Path(__file__).resolve().parents[1] / "hosts"
A2 = read.snapshot(HOSTS / "synthetic-atlas-a2")
A3 = read.snapshot(HOSTS / "synthetic-atlas-a3")
NESTED = read.snapshot(HOSTS / "synthetic-nested")
BARE = Inventory("none")
MODELS = "/opt/appliance/models"
CACHE = "cache.dir=/data/modelscope"
THINKING = "Qwen/Qwen3-Omni-30B-A3B-Thinking"
DRIVER = ("/usr/local/Ascend/driver/lib64", "/usr/local/Ascend/driver/version.info")
MANAGERS = ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")


def config(*overrides: str) -> Config:
    return load(None, {}, overrides).config


def plan(host: Inventory, *overrides: str) -> Plan:
    return make(config(*overrides), host, MODELS)


def ascend(host: Inventory, *overrides: str, product: str = "atlas-a2") -> Plan:
    return plan(host, f"product={product}", CACHE, *overrides)


def refused(error_id: str, host: Inventory, *overrides: str) -> ApplianceError:
    with pytest.raises(ApplianceError) as caught:
        plan(host, *overrides)
    assert caught.value.id == error_id, caught.value.message
    return caught.value


def without(host: Inventory, *names: str) -> Inventory:
    """The same host, less some device nodes and paths."""
    gone = set(names)
    return dataclasses.replace(
        host,
        npus=tuple(npu for npu in host.npus if npu.device not in gone),
        device_nodes=host.device_nodes - gone,
        paths=host.paths - gone,
    )


def option(made: Plan, name: str) -> str:
    """The value of an option of `vllm serve`."""
    return made.serve_args[made.serve_args.index(name) + 1]


def environment(made: Plan) -> dict[str, str]:
    return dict(made.container.environment)


# Any plan

HOSTS_AND_OVERRIDES: list[tuple[Inventory, tuple[str, ...]]] = [
    (BARE, ()),
    (A2, ("product=atlas-a2",)),
    (A3, ("product=atlas-a3",)),
    (NESTED, ("product=atlas-a2",)),
    (A2, ("platform=cpu",)),
    (BARE, ("server.network=host", "container.memory=8g", "name=other")),
]
# What every plan has, to keep the server up.
GUARDED = (
    "--h11-max-incomplete-event-size", "65536", "--middleware", "appliance.inside.guard.Guard",
)  # fmt: skip
GRAMMARS = ("--structured-outputs-config", '{"backend":"guidance"}')
EVERY = pytest.mark.parametrize(
    ("host", "overrides"),
    HOSTS_AND_OVERRIDES,
    ids=["cpu", "a2", "a3", "nested", "cpu-on-a2", "cpu-host-network"],
)


@EVERY
def test_the_same_input_gives_the_same_plan(host: Inventory, overrides: tuple[str, ...]) -> None:
    first, second = plan(host, *overrides), plan(host, *overrides)
    assert first == second
    assert first.container.labels() == second.container.labels()
    json.dumps(first.as_dict())


@EVERY
def test_making_a_plan_changes_nothing_that_it_is_made_of(
    host: Inventory, overrides: tuple[str, ...]
) -> None:
    settings = config(*overrides)
    before = repr((settings, host))
    make(settings, host, MODELS)
    assert repr((settings, host)) == before


@EVERY
def test_no_plan_has_more_privileges_than_it_needs(
    host: Inventory, overrides: tuple[str, ...]
) -> None:
    made = plan(host, *overrides)
    box = made.container
    assert not box.privileged
    assert box.cap_drop == ("ALL",)
    assert box.security_opt == ("no-new-privileges:true",)
    assert box.read_only
    assert box.init
    assert not any("privileged" in warning for warning in made.warnings)
    # Only the volume of caches can be written to.
    assert [mount.type for mount in box.mounts if not mount.read_only] == ["volume"]
    assert not any("nosuid" not in mount.options for mount in box.tmpfs)


@EVERY
def test_no_plan_has_an_option_that_vllm_does_not_know_any_more(
    host: Inventory, overrides: tuple[str, ...]
) -> None:
    gone = {"--swap-space", "--disable-log-requests", "--use-v2-block-manager", "--device"}
    assert not gone & set(plan(host, *overrides).serve_args)


@EVERY
def test_every_plan_refuses_media_urls_by_default(
    host: Inventory, overrides: tuple[str, ...]
) -> None:
    made = plan(host, *overrides)
    # vLLM checks the list only if it is not empty, and RFC 2606 lets no one own this name.
    assert option(made, "--allowed-media-domains").endswith(".invalid")
    assert environment(made)["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"


@EVERY
def test_every_plan_is_reachable_from_this_host_alone(
    host: Inventory, overrides: tuple[str, ...]
) -> None:
    made = plan(host, *overrides)
    assert made.api_url == "http://127.0.0.1:8000"
    addresses = [port.host_ip for port in made.container.ports] or [option(made, "--host")]
    assert addresses == ["127.0.0.1"]


# CPU


def test_a_host_without_npus_gets_the_small_model_on_the_cpu() -> None:
    made = plan(BARE)
    assert (made.platform, made.product, made.release) == ("cpu", "none", "v0.23.0")
    assert made.image.name == f"qwen3-omni-appliance:{__version__}-v0.23.0-cpu"
    assert made.image.base == "docker.io/vllm/vllm-openai-cpu:v0.23.0"
    assert made.image.base_entrypoint == "cleared"
    assert made.image.local_image == "qwen3-omni-appliance/vllm-cpu-base:v0.23.0"
    assert (made.tensor_parallel_size, made.expert_parallel) == (1, False)
    assert made.container.devices == ()
    assert made.container.mounts == (
        Mount("bind", f"{MODELS}/tiny-omni", "/models/tiny-omni", read_only=True),
        Mount("volume", "qwen3-omni-cache", "/var/cache/appliance", read_only=False),
    )
    assert made.container.ports == (Port("127.0.0.1", 8000, 8000),)
    assert made.container.memory_bytes is None
    assert made.container.shm_size_bytes == 1024**3
    assert made.container.ulimits == ()
    assert made.warnings == ()
    assert made.serve_args == (
        "/models/tiny-omni", "--served-model-name", "tiny-omni",
        "--host", "0.0.0.0", "--port", "8000", "--tensor-parallel-size", "1",
        "--max-model-len", "32768",
        "--limit-mm-per-prompt", '{"audio":3,"image":5,"video":2}',
        "--reasoning-parser", "deepseek_r1",
        "--allowed-media-domains", "data-urls-only.invalid",
        *GUARDED,
        "--shutdown-timeout", "45", "--disable-access-log-for-endpoints", "/health,/metrics",
        "--enforce-eager", *GRAMMARS,
    )  # fmt: skip


def test_the_container_starts_vllm_through_the_supervisor() -> None:
    made = plan(BARE)
    start = ("python3", "-m", "appliance.supervisor", "vllm", "serve")
    assert made.container.command == (*start, *made.serve_args)


def test_without_a_checkout_the_small_model_is_looked_for_beside_the_file() -> None:
    made = make(config(), BARE, None)
    assert made.model.host_path == "./models/tiny-omni"
    assert any("./models/tiny-omni" in warning for warning in made.warnings)


# Ascend


def test_plan_of_an_atlas_a2() -> None:
    made = ascend(A2)
    assert (made.platform, made.product, made.release) == ("ascend", "atlas-a2", "v0.23.0")
    assert made.image.name == f"qwen3-omni-appliance:{__version__}-v0.23.0"
    assert made.image.base == "quay.io/ascend/vllm-ascend:v0.23.0"
    assert made.image.base_entrypoint == "own"
    assert made.image.local_image is None
    assert all(name.endswith("vllm-ascend:v0.23.0") for name in made.image.mirrors)
    assert (made.tensor_parallel_size, made.expert_parallel) == (2, True)
    nodes = ("/dev/davinci0", "/dev/davinci1", *MANAGERS)
    assert made.container.devices == tuple(Device(node, node) for node in nodes)
    folder = f"/data/modelscope/hub/models/{THINKING}"
    driver = (
        *DRIVER, "/usr/local/dcmi", "/etc/ascend_install.info", "/usr/local/bin/npu-smi",
        "/usr/local/Ascend/driver/tools/hccn_tool", "/etc/hccn.conf",
    )  # fmt: skip
    assert made.container.mounts == (
        Mount("bind", folder, "/models/Qwen3-Omni-30B-A3B-Thinking", read_only=True),
        *(Mount("bind", path, path, read_only=True) for path in driver),
        Mount("volume", "qwen3-omni-cache", "/var/cache/appliance", read_only=False),
    )
    blind, unchecked = made.warnings
    assert "whether they are free is not known" in blind
    assert "npu-smi does not say how much memory" in unchecked


def test_arguments_and_variables_of_an_atlas_a2() -> None:
    made = ascend(A2)
    assert made.serve_args == (
        "/models/Qwen3-Omni-30B-A3B-Thinking", "--served-model-name", THINKING,
        "--host", "0.0.0.0", "--port", "8000", "--tensor-parallel-size", "2",
        "--enable-expert-parallel", "--max-model-len", "32768",
        "--limit-mm-per-prompt", '{"audio":3,"image":5,"video":2}',
        "--reasoning-parser", "deepseek_r1",
        "--allowed-media-domains", "data-urls-only.invalid",
        *GUARDED,
        "--shutdown-timeout", "45", "--disable-access-log-for-endpoints", "/health,/metrics",
        "--distributed-executor-backend", "mp", *GRAMMARS,
    )  # fmt: skip
    cache = "/var/cache/appliance"
    assert environment(made) == {
        "APPLIANCE_SERVER_MAX_BODY_MB": "128",
        "APPLIANCE_SERVER_MAX_MEDIA_MB": "4096",
        "APPLIANCE_SERVER_MAX_MEDIA_SECONDS": "2400",
        "ASCEND_PROCESS_LOG_PATH": f"{cache}/ascend/log",
        "HCCL_BUFFSIZE": "1024",
        "HCCL_OP_EXPANSION_MODE": "AIV",
        "HEALTHCHECKS_URL": "http://127.0.0.1:8000",
        "HF_HUB_OFFLINE": "1",
        "HOME": "/tmp",
        "NUMBA_CACHE_DIR": f"{cache}/numba",
        "OMP_NUM_THREADS": "1",
        "OMP_PROC_BIND": "false",
        "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
        "TORCHINDUCTOR_CACHE_DIR": f"{cache}/torchinductor",
        "TRITON_CACHE_DIR": f"{cache}/triton",
        "VLLM_CACHE_ROOT": f"{cache}/vllm",
        "VLLM_ENGINE_READY_TIMEOUT_S": "3600",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "XDG_CACHE_HOME": cache,
    }


def test_plan_of_an_atlas_a3() -> None:
    made = ascend(A3, product="atlas-a3")
    assert made.product == "atlas-a3"
    assert made.image.name == f"qwen3-omni-appliance:{__version__}-v0.23.0-a3"
    assert made.image.base == "quay.io/ascend/vllm-ascend:v0.23.0-a3"
    assert all(name.endswith(":v0.23.0-a3") for name in made.image.mirrors)
    nodes = ("/dev/davinci0", "/dev/davinci1", *MANAGERS)
    assert made.container.devices == tuple(Device(node, node) for node in nodes)
    sources = [mount.source for mount in made.container.mounts[1:-1]]
    assert sources == [
        *DRIVER, "/usr/local/dcmi", "/etc/ascend_install.info", "/usr/local/sbin/npu-smi",
    ]  # fmt: skip


def test_in_a_nested_setup_the_manager_keeps_the_name_that_the_driver_opens() -> None:
    made = ascend(NESTED)
    assert Device("/dev/davinci_manager_docker", "/dev/davinci_manager") in made.container.devices
    assert len(made.container.devices) == 5


def test_the_manager_itself_is_preferred_to_its_nested_name() -> None:
    both = dataclasses.replace(A2, device_nodes=A2.device_nodes | {"/dev/davinci_manager_docker"})
    assert ascend(both).container.devices == ascend(A2).container.devices


def test_a_host_without_npu_smi_gets_a_plan_and_a_warning() -> None:
    *_, without = ascend(NESTED).warnings
    assert "neither in /usr/local/bin nor in /usr/local/sbin" in without


@pytest.mark.parametrize("path", [*DRIVER, "/usr/local/dcmi"])
def test_a_driver_path_that_is_needed_and_missing_is_named(path: str) -> None:
    error = refused("devices-missing", without(A2, path), "product=atlas-a2")
    assert path in error.message


@pytest.mark.parametrize(
    "path",
    [
        "/etc/hccn.conf",
        "/etc/ascend_install.info",
        "/usr/local/Ascend/driver/tools/hccn_tool",
    ],
)
def test_a_driver_path_that_is_optional_and_missing_is_left_out(path: str) -> None:
    made = ascend(without(A2, path))
    assert path not in {mount.source for mount in made.container.mounts}
    assert len(made.container.mounts) == len(ascend(A2).container.mounts) - 1


@pytest.mark.parametrize("node", MANAGERS)
def test_a_manager_node_that_is_missing_is_named(node: str) -> None:
    error = refused("devices-missing", without(A2, node), "product=atlas-a2")
    assert node in error.message


def test_too_few_npus_are_refused() -> None:
    one = without(NESTED, "/dev/davinci1")
    error = refused("devices-missing", one, "product=atlas-a2")
    assert "2 NPUs" in error.message
    assert "/dev/davinci0" in error.message
    none = without(one, "/dev/davinci0")
    assert "none" in refused("devices-missing", none, "product=atlas-a2").message
    four = "parallel.tensor_parallel_size=4"
    assert "4 NPUs" in refused("devices-missing", NESTED, "product=atlas-a2", four).message


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_as_many_npus_as_ranks(ranks: int) -> None:
    made = ascend(A2, f"parallel.tensor_parallel_size={ranks}")
    assert made.tensor_parallel_size == ranks
    assert option(made, "--tensor-parallel-size") == str(ranks)
    assert len(made.container.devices) == ranks + 3


def test_npus_are_taken_by_number_not_by_name() -> None:
    # As text, davinci10 comes before davinci2.
    host = without(A3, "/dev/davinci0", "/dev/davinci1")
    made = ascend(host, product="atlas-a3")
    assert [device.host for device in made.container.devices[:2]] == [
        "/dev/davinci2", "/dev/davinci3",
    ]  # fmt: skip


def test_npus_that_the_operator_chose_are_taken() -> None:
    """In the order of their numbers: that is how CANN numbers what it sees in a container."""
    made = ascend(A2, "npus=[7, 3]")
    assert made.container.devices[:2] == (
        Device("/dev/davinci3", "/dev/davinci3"),
        Device("/dev/davinci7", "/dev/davinci7"),
    )


@pytest.mark.parametrize(
    ("npus", "error_id", "phrase"),
    [
        ("[6, 8]", "devices-missing", "/dev/davinci8"),
        ("[-1, 0]", "config-invalid", "npus: -1 < 0"),
        ("[0]", "config-invalid", "names 1 NPUs"),
        ("[0, 1, 2]", "config-invalid", "names 3 NPUs"),
        ("[]", "config-invalid", "names 0 NPUs"),
        # One NPU can't be two ranks.
        ("[0, 0]", "config-invalid", "twice"),
    ],
)
def test_npus_that_can_not_be_had_are_refused(npus: str, error_id: str, phrase: str) -> None:
    assert phrase in refused(error_id, A2, "product=atlas-a2", f"npus={npus}").message


def test_expert_parallelism_can_be_switched_off() -> None:
    made = ascend(A2, "parallel.expert_parallel=false")
    assert not made.expert_parallel
    assert "--enable-expert-parallel" not in made.serve_args


# Platform, product, release, model


def test_npus_of_an_unknown_product_ask_for_the_product() -> None:
    error = refused("host-unsupported", A2)
    assert "product" in error.remedy
    assert "atlas-a2" in error.remedy
    assert "atlas-a3" in error.remedy


@pytest.mark.parametrize("product", ["atlas-a9", "A2", "none", "unsupported", "''"])
def test_a_product_that_is_not_in_the_catalog_is_refused(product: str) -> None:
    error = refused("host-unsupported", A2, f"product={product}")
    assert "atlas-a2" in error.message + error.remedy


@pytest.mark.parametrize(
    ("product", "phrase"),
    [
        ("atlas-310p", "this host is Atlas 300I (310P)"),
        ("ascend-950", "this host is Ascend 950"),
        ("unsupported", "vllm-ascend does not support them"),
    ],
)
def test_a_detected_product_that_is_not_supported_is_refused(
    product: ProductName, phrase: str
) -> None:
    host = dataclasses.replace(A2, product=product)
    assert phrase in refused("host-unsupported", host).message


def test_a_product_that_contradicts_what_was_detected_is_refused() -> None:
    host = dataclasses.replace(A2, product="atlas-a3")
    assert "atlas-a3" in refused("host-unsupported", host, "product=atlas-a2").message


def test_the_ascend_platform_without_npus_is_refused() -> None:
    refused("host-unsupported", BARE, "platform=ascend")
    refused("devices-missing", BARE, "platform=ascend", "product=atlas-a2")


def test_a_host_with_npus_may_serve_from_its_cpu() -> None:
    made = plan(A2, "platform=cpu")
    assert made.platform == "cpu"
    assert made.container.devices == ()


def test_an_unknown_release_is_refused_with_the_known_ones() -> None:
    error = refused("config-invalid", BARE, "release=0.23.0")
    assert "0.23.0" in error.message
    assert "v0.23.0" in error.remedy


def test_a_model_that_does_not_run_on_the_platform_is_refused() -> None:
    error = refused("host-unsupported", BARE, f"model.id={THINKING}")
    assert THINKING in error.message
    assert "cpu" in error.message
    assert "tiny-omni" in error.remedy


def test_a_model_of_the_hub_is_where_modelscope_puts_it() -> None:
    made = ascend(A2, "model.id=Some.Org/Qwen2.5-Omni-7B", "model.revision=v1.0")
    assert made.model.source == "hub"
    # ModelScope writes a dot of the name, and not of the owner, as three underscores.
    assert made.model.host_path == "/data/modelscope/hub/models/Some.Org/Qwen2___5-Omni-7B"
    assert made.model.container_path == "/models/Qwen2.5-Omni-7B"
    assert made.model.revision == "v1.0"
    assert option(made, "--served-model-name") == "Some.Org/Qwen2.5-Omni-7B"
    # vLLM's own defaults, where the catalog knows nothing.
    assert "--max-model-len" not in made.serve_args
    assert "--reasoning-parser" not in made.serve_args


def test_a_model_folder_is_mounted_as_it_is() -> None:
    made = plan(BARE, "model.path=/data/my model/", "server.max_model_len=1024")
    assert made.model.source == "path"
    assert made.model.id == "my model"
    assert made.container.mounts[0].target == "/models/my model"
    assert made.serve_args[0] == "/models/my model"
    assert option(made, "--max-model-len") == "1024"


def test_a_folder_of_a_known_model_gets_what_the_catalog_knows_of_it() -> None:
    made = ascend(A2, f"model.id={THINKING}", "model.path=/data/w", "model.served_name=omni")
    assert made.model.host_path == "/data/w"
    assert option(made, "--served-model-name") == "omni"
    assert option(made, "--max-model-len") == "32768"


def test_an_image_by_name_is_run_as_it_is() -> None:
    made = plan(BARE, "image.name=registry.example/omni@sha256:abc")
    assert made.image.name == made.container.image == "registry.example/omni@sha256:abc"
    assert made.image.base is None


def test_a_base_by_name_replaces_every_other_base() -> None:
    made = plan(BARE, "image.base=registry.example/vllm:1")
    assert made.image.base == "registry.example/vllm:1"
    assert (made.image.mirrors, made.image.local_image) == ((), None)


# Who can reach the API


@pytest.mark.parametrize("network", ["bridge", "host"])
@pytest.mark.parametrize(
    "address", ["0.0.0.0", "'::'", "192.168.1.5", "fe80::1", "::ffff:10.0.0.1", "1.2.7.0"]
)
def test_an_address_that_others_reach_needs_a_key(address: str, network: str) -> None:
    settings = (f"server.bind={address}", f"server.network={network}")
    error = refused("public-without-key", BARE, *settings)
    assert address.strip("'") in error.message
    made = plan(BARE, *settings, "server.api_key_file=/etc/key")
    assert made.api_key_file == "/etc/key"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1"])
def test_a_loopback_address_needs_no_key(address: str) -> None:
    made = plan(BARE, f"server.bind={address}")
    assert made.container.ports == (Port(address, 8000, 8000),)
    shown = f"[{address}]" if ":" in address else address
    assert made.api_url == f"http://{shown}:8000"


# The first three look like loopback and are names, or short forms that programs read
# differently.
@pytest.mark.parametrize("address", ["127.cafe", "127.0.0.1.de", "127.1", "1.2.3.4.5", ":::", "."])
def test_what_is_no_address_is_refused(address: str) -> None:
    error = refused("config-invalid", BARE, f"server.bind='{address}'")
    assert "server.bind" in error.message


@pytest.mark.parametrize(
    ("address", "url"), [("0.0.0.0", "http://127.0.0.1:8000"), ("'::'", "http://[::1]:8000")]
)
def test_a_wildcard_is_probed_through_loopback(address: str, url: str) -> None:
    made = plan(BARE, f"server.bind={address}", "server.api_key_file=/etc/key")
    assert made.api_url == url


def test_on_the_hosts_network_vllm_binds_the_address_itself() -> None:
    made = plan(BARE, "server.network=host", "server.port=9000", "server.bind=127.0.0.2")
    assert made.container.network == "host"
    assert made.container.ports == ()
    assert (option(made, "--host"), option(made, "--port")) == ("127.0.0.2", "9000")
    assert environment(made)["HEALTHCHECKS_URL"] == made.api_url == "http://127.0.0.2:9000"


def test_on_a_bridge_the_host_port_is_not_the_containers() -> None:
    made = plan(BARE, "server.port=9000")
    assert made.container.ports == (Port("127.0.0.1", 9000, 8000),)
    assert (option(made, "--host"), option(made, "--port")) == ("0.0.0.0", "8000")
    assert environment(made)["HEALTHCHECKS_URL"] == "http://127.0.0.1:8000"


def test_media_domains_are_those_that_the_operator_names() -> None:
    made = plan(BARE, "server.allowed_media_domains=[a.example, b.example]")
    start = made.serve_args.index("--allowed-media-domains")
    after = ("a.example", "b.example", GUARDED[0])
    assert made.serve_args[start + 1 : start + 4] == after


# The API key

KEY = "/etc/appliance/key"
Facts = tuple[int, int, int, int]


def with_key(facts: Facts | None) -> Inventory:
    return dataclasses.replace(BARE, files={KEY: FileFacts(*facts) if facts else None})


def test_the_key_is_mounted_read_only_and_stands_nowhere_else() -> None:
    made = plan(with_key((0, 0, 0o600, 65)), f"server.api_key_file={KEY}")
    secret = Mount("bind", KEY, "/run/secrets/appliance-api-key", read_only=True)
    assert made.container.mounts[-1] == secret
    assert "--api-key" not in made.serve_args
    # The last one is asked first.
    words = [
        made.serve_args[at + 1] for at, it in enumerate(made.serve_args) if it == "--middleware"
    ]
    assert words == ["appliance.inside.guard.Guard", "appliance.inside.auth.RequireKey"]
    assert "VLLM_API_KEY" not in environment(made)
    assert made.container.group_add == ()


def test_a_key_that_only_a_group_may_read_makes_the_container_join_it() -> None:
    made = plan(with_key((1000, 1234, 0o640, 65)), f"server.api_key_file={KEY}")
    assert made.container.group_add == (1234,)


@pytest.mark.parametrize(
    ("facts", "phrase"),
    [
        (None, "can't be found"),
        ((0, 0, 0o600, 0), "is empty"),
        ((0, 0, 0o644, 65), "open to everybody"),
        ((0, 0, 0o602, 65), "open to everybody"),
        ((1000, 1000, 0o600, 65), "belongs to uid 1000"),
    ],
)
def test_a_key_file_that_would_not_work_is_refused(facts: Facts | None, phrase: str) -> None:
    error = refused("api-key-file", with_key(facts), f"server.api_key_file={KEY}")
    assert phrase in error.message
    assert KEY in error.message


def test_the_facts_of_a_real_key_file_are_read(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret\n", encoding="utf-8")
    key.chmod(0o640)
    inventory = read.live((), (str(key), str(tmp_path / "absent")))
    facts = inventory.files[str(key)]
    assert facts is not None
    assert (facts.mode, facts.size) == (0o640, 7)
    assert inventory.files[str(tmp_path / "absent")] is None


# The container's limits


def test_privileged_only_when_asked_and_then_with_a_warning() -> None:
    made = plan(BARE, "container.privileged=true")
    assert made.container.privileged
    (warning,) = made.warnings
    assert "container.privileged" in warning


def test_limits_are_bytes_and_in_order() -> None:
    made = plan(
        BARE,
        "container.shm_size=512m",
        "container.memory=3g",
        "container.ulimits={nofile: 65536, memlock: -1}",
        "container.restart=no",
        "timeouts.stop=7",
    )
    box = made.container
    assert (box.shm_size_bytes, box.memory_bytes) == (512 * 1024**2, 3 * 1024**3)
    assert box.ulimits == (Ulimit("memlock", -1, -1), Ulimit("nofile", 65536, 65536))
    assert (box.restart, box.stop_timeout) == ("no", 7)


def test_the_operators_variables_win_over_the_defaults() -> None:
    made = ascend(A2, "container.environment={HCCL_BUFFSIZE: 512, MINE: x}")
    assert environment(made)["HCCL_BUFFSIZE"] == "512"
    assert environment(made)["MINE"] == "x"
    names = [name for name, _ in made.container.environment]
    assert names == sorted(set(names))


def test_server_settings_become_options() -> None:
    made = plan(
        BARE,
        "server.max_num_seqs=4",
        "server.memory_utilization=0.5",
        "server.limit_mm_per_prompt={video: 1}",
        "server.reasoning_parser=none",
        "server.extra_args=[--seed, '7']",
    )
    assert option(made, "--max-num-seqs") == "4"
    assert option(made, "--gpu-memory-utilization") == "0.5"
    assert option(made, "--limit-mm-per-prompt") == '{"video":1}'
    assert "--reasoning-parser" not in made.serve_args
    assert made.serve_args[-2:] == ("--seed", "7")


def test_two_appliances_share_no_volume_and_no_name() -> None:
    one, two = plan(BARE).container, plan(BARE, "name=second").container
    assert two.name == "second"
    assert one.mounts[-1].source != two.mounts[-1].source


@pytest.mark.parametrize(
    "override",
    [
        "name=other", "server.port=1", "container.memory=1g", "container.environment={A: b}",
        "server.extra_args=[--x]", "container.restart=no", "timeouts.stop=9", "image.name=x",
    ],
)  # fmt: skip
def test_every_change_changes_the_hash(override: str) -> None:
    label = "appliance.plan-hash"
    assert plan(BARE).container.labels()[label] != plan(BARE, override).container.labels()[label]


# Snapshots


def test_every_file_of_a_snapshot_is_optional(tmp_path: Path) -> None:
    unread = frozenset({"dev.txt", "paths.txt"})
    assert read.snapshot(tmp_path) == dataclasses.replace(BARE, unread=unread)


def test_a_snapshot_tells_what_its_files_hold() -> None:
    assert A2.driver_version == "25.5.2"
    assert [npu.device for npu in A2.npus] == [f"/dev/davinci{n}" for n in range(8)]
    assert len(A3.npus) == 16
    assert A2.system.memory_gib == 1510
    assert A2.system.runtimes == ("runc", "ascend")


def test_lines_of_other_systems_and_empty_ones_do_no_harm(tmp_path: Path) -> None:
    text = "\r\n/dev/davinci3\r\n\r\n/dev/davinci_manager\r\n/dev/davinciX\r\n"
    (tmp_path / "dev.txt").write_bytes(text.encode())
    assert [npu.device for npu in read.snapshot(tmp_path).npus] == ["/dev/davinci3"]


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"cpus": "many"}', '{"runtimes": 3}'])
def test_a_snapshot_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "system.json").write_text(text, encoding="utf-8")
    with pytest.raises(ApplianceError) as caught:
        read.snapshot(tmp_path)
    assert caught.value.id == "snapshot-invalid"
    assert "system.json" in caught.value.message


@pytest.mark.parametrize("name", ["absent", "n" * 300])
def test_a_snapshot_must_be_a_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ApplianceError) as caught:
        read.snapshot(tmp_path / name)
    assert caught.value.id == "snapshot-invalid"


def test_a_file_of_a_snapshot_that_is_no_file_is_refused(tmp_path: Path) -> None:
    folder: Any = shutil.copytree(HOSTS / "synthetic-nested", tmp_path / "host")
    (folder / "driver-version.info").mkdir()
    with pytest.raises(ApplianceError) as caught:
        read.snapshot(folder)
    assert caught.value.id == "snapshot-invalid"
