"""The engine's command line and environment: by release, by profile, and what is refused.

The catalog's parsers/ has the option names of each release's own parser. That those of the
default release are still right is tested inside the image (tests/e2e/test_b_arguments.py).
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from appliance.catalog import drivers
from appliance.catalog import load as catalog
from appliance.config.load import load
from appliance.config.model import Config
from appliance.errors import ApplianceError
from appliance.inventory import read
from appliance.inventory.model import Claim, Inventory
from appliance.plan import arguments, options, ports
from appliance.plan import profile as profiles
from appliance.plan.choice import Choice, choose
from appliance.plan.make import make

pytestmark = pytest.mark.usefixtures("clean")

TESTS = Path(__file__).resolve().parents[1]
A2 = read.snapshot(TESTS / "hosts" / "synthetic-atlas-a2")
A3 = read.snapshot(TESTS / "hosts" / "synthetic-atlas-a3")
BARE = Inventory("none")
MODELS = "/opt/appliance/models"
RELEASES = tuple(catalog.releases())
PROFILES = ("default", *catalog.profiles())
HOSTS = {"atlas-a2": A2, "atlas-a3": A3}
W8A8 = "server.extra_args=[--quantization, ascend]"


def decided(host: Inventory, *overrides: str) -> tuple[Config, Choice]:
    """What `choose` decides, with the profile's layout."""
    config = load(None, {}, overrides).config
    choice = choose(config, host, MODELS)
    layout = profiles.layout(config, choice.platform_name, host)
    return config, dataclasses.replace(
        choice, ranks=layout.tensor_parallel_size, expert_parallel=layout.expert_parallel
    )


def npu(*overrides: str, host: Inventory = A2) -> tuple[Config, Choice]:
    return decided(host, "product=atlas-a2", "cache.dir=/data", *overrides)


def serve(*overrides: str, host: Inventory = A2) -> tuple[str, ...]:
    config, choice = npu(*overrides, host=host)
    return arguments.serve(config, choice, host)


def environment(*overrides: str, host: Inventory = A2) -> dict[str, str]:
    return dict(arguments.environment(*npu(*overrides, host=host)))


def warnings(*overrides: str, host: Inventory = A2) -> tuple[str, ...]:
    config, choice = npu(*overrides, host=host)
    return arguments.warnings(config, choice, host)


def refused(*overrides: str, host: Inventory = A2) -> str:
    with pytest.raises(ApplianceError) as caught:
        serve(*overrides, host=host)
    assert caught.value.id == "config-invalid", caught.value.message
    return f"{caught.value.message} {caught.value.remedy}"


def value(args: tuple[str, ...], option: str) -> str:
    return args[args.index(option) + 1]


def known_options(version: str) -> set[str]:
    return set(catalog.parser_options(version))


# What each release's parser knows

SETTINGS: list[tuple[str, ...]] = [
    (),
    ("server.network=host", "server.port=9000"),
    ("server.bind=0.0.0.0", "server.api_key_file=/etc/key"),
    ("server.allowed_media_domains=[a.example, b.example]",),
    (
        "server.max_model_len=1024", "server.max_num_seqs=4", "server.max_num_batched_tokens=2048",
        "server.memory_utilization=0.5", "server.limit_mm_per_prompt={video: 1}",
        "parallel.data_parallel_size=2",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("release", "profile", "kind", "settings"),
    list(product(RELEASES, PROFILES, HOSTS, SETTINGS)),
)
def test_every_release_knows_every_option_that_is_rendered_for_it(
    release: str, profile: str, kind: str, settings: tuple[str, ...]
) -> None:
    words = (f"product={kind}", f"release={release}", f"profile={profile}", *settings)
    config, choice = decided(HOSTS[kind], *words)
    if profile in choice.release.refused_profiles:
        with pytest.raises(ApplianceError, match=profile):
            arguments.serve(config, choice, HOSTS[kind])
        return
    args = arguments.serve(config, choice, HOSTS[kind])
    given = {word for word in args if word.startswith("-")}
    assert len(given) > 5
    assert given <= known_options(choice.release.vllm)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("option", catalog.options())
def test_what_the_catalog_says_of_an_option_is_what_the_parser_says(
    release: str, option: str
) -> None:
    names = known_options(catalog.releases()[release].vllm)
    # argparse takes what only one option begins with for that option.
    known = option in names or len([name for name in names if name.startswith(option)]) == 1
    word = f"server.extra_args=[{option}]"
    if known:
        assert serve(f"release={release}", word)[-1] == option
    else:
        assert option in refused(f"release={release}", word)


def test_an_option_that_is_gone_is_refused_with_what_to_do() -> None:
    text = refused("server.extra_args=[--swap-space, '4']")
    assert text.startswith("--swap-space is gone since vLLM 0.18.0: leave it out")
    assert "4" in serve("release=v0.13.0", "server.extra_args=[--swap-space, '4']")
    assert "not in vLLM 0.13.0 yet" in refused("release=v0.13.0", "server.extra_args=[--numa-bind]")
    assert "is gone from vLLM" in refused("server.extra_args=[--rope-scaling, x]")


@pytest.mark.parametrize("word", ["--swap_space=4", "--swap-space=4", "--swap-space.gib=4"])
def test_an_option_is_recognised_as_vllm_recognises_it(word: str) -> None:
    assert "--swap-space" in refused(f"server.extra_args=['{word}']")


@pytest.mark.parametrize("word", ["-1", "-0.5", "plain", "", "-", "-- or not", "- {a: b}"])
def test_what_is_no_option_is_a_value(word: str) -> None:
    assert options.read([word], frozenset()) == ()


@pytest.mark.parametrize(
    "word",
    ["--tensor-parallel-size", "-tp", "--tensor_parallel_size=4", "--data-parallel-size", "-dp",
     "--pipeline-parallel-size", "-pp"],
)  # fmt: skip
def test_what_decides_the_number_of_devices_is_not_for_extra_arguments(word: str) -> None:
    assert "`parallel." in refused(f"server.extra_args=['{word}', '4']")


def test_an_older_release_says_what_is_known_against_it() -> None:
    assert warnings() == ()
    assert any("CANN 9.0.0" in text for text in warnings("release=v0.18.0"))
    assert any("CVE-2026-22778" in text for text in warnings("release=v0.13.0"))


def test_an_older_release_is_for_npus_alone() -> None:
    config, choice = decided(BARE, "release=v0.18.0")
    with pytest.raises(ApplianceError) as caught:
        arguments.serve(config, choice, BARE)
    assert caught.value.id == "config-invalid"
    assert "v0.23.0" in caught.value.remedy


@pytest.mark.parametrize("release", RELEASES)
def test_no_release_fetches_what_a_redirect_or_a_foreign_domain_names(release: str) -> None:
    assert environment(f"release={release}")["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"
    domain = value(serve(f"release={release}"), "--allowed-media-domains")
    assert domain.endswith(".invalid")


# Profiles


@pytest.mark.parametrize("profile", catalog.profiles())
def test_a_profile_says_what_it_was_measured_on(profile: str) -> None:
    row = catalog.profiles()[profile]
    keys = {"source", "hardware", "weights", "tensor_parallel_size", "draft_model", "load"}
    assert set(row.measured_on) == keys
    assert row.measured_on["tensor_parallel_size"] == row.tensor_parallel_size


def test_the_default_profile_is_the_guides_line() -> None:
    assert serve() == serve("profile=default")
    assert not {"--max-num-seqs", "--compilation-config"} & set(serve())


def test_the_low_latency_profile() -> None:
    assert serve("profile=low-latency")[5:] == (
        "--port", "8000", "--tensor-parallel-size", "4", "--enable-expert-parallel",
        "--max-model-len", "37364", "--max-num-seqs", "100", "--max-num-batched-tokens", "16384",
        "--gpu-memory-utilization", "0.95",
        "--limit-mm-per-prompt", '{"audio":3,"image":5,"video":2}',
        "--reasoning-parser", "deepseek_r1",
        "--allowed-media-domains", "data-urls-only.invalid",
        "--h11-max-incomplete-event-size", "65536", "--middleware", "appliance.inside.guard.Guard",
        "--shutdown-timeout", "45", "--disable-access-log-for-endpoints", "/health,/metrics",
        "--distributed-executor-backend", "mp",
        "--no-enable-prefix-caching", "--async-scheduling",
        "--structured-outputs-config", '{"backend":"guidance"}',
        "--compilation-config", '{"cudagraph_mode":"FULL_DECODE_ONLY"}',
        "--additional-config", '{"weight_nz_mode":2}',
    )  # fmt: skip
    assert environment("profile=low-latency") == environment()


def test_the_high_throughput_profile_needs_two_ranks_for_weights_that_are_not_quantised() -> None:
    args = serve("profile=high-throughput")
    assert value(args, "--tensor-parallel-size") == "2"
    assert "--enable-expert-parallel" in args
    measured, ranks = warnings("profile=high-throughput")
    assert "W8A8 weights and a draft model (eagle3, 3 tokens)" in measured
    assert "do not fit into, and runs with 2" in ranks
    # Two ranks by choice are no surprise to whoever chose them.
    (text,) = warnings("profile=low-latency", "parallel.tensor_parallel_size=2")
    assert "W8A8" in text


@pytest.mark.parametrize("sign", ["option", "short option", "config.json"])
def test_the_high_throughput_profile_on_quantised_weights(sign: str) -> None:
    host = A2
    words = {"option": (W8A8,), "short option": (W8A8.replace("--quantization", "-q"),)}.get(sign)
    if words is None:
        host = dataclasses.replace(A2, model_config={"quantization_config": {}})
    args = serve("profile=high-throughput", *(words or ()), host=host)
    assert value(args, "--tensor-parallel-size") == "1"
    assert "--enable-expert-parallel" not in args
    (text,) = warnings("profile=high-throughput", *(words or ()), host=host)
    assert "with a draft model" in text
    draft = "server.extra_args=[-q, ascend, --speculative-config, '{}']"
    assert warnings("profile=high-throughput", draft) == ()


def test_the_long_context_profile_scales_the_text_models_positions() -> None:
    args = serve("profile=long-context")
    assert value(args, "--max-model-len") == "131072"
    assert value(args, "--max-num-seqs") == "14"
    scaled = json.loads(value(args, "--hf-overrides"))
    rope = scaled["thinker_config"]["text_config"]["rope_parameters"]
    assert rope["factor"] * rope["original_max_position_embeddings"] == 131072


def test_what_the_operator_sets_beats_the_profile() -> None:
    args = serve(
        "profile=low-latency", "server.max_model_len=4096", "server.max_num_seqs=7",
        "server.max_num_batched_tokens=8192", "server.memory_utilization=0.8",
        "parallel.tensor_parallel_size=2", "parallel.expert_parallel=false",
    )  # fmt: skip
    assert value(args, "--max-model-len") == "4096"
    assert value(args, "--max-num-seqs") == "7"
    assert value(args, "--max-num-batched-tokens") == "8192"
    assert value(args, "--gpu-memory-utilization") == "0.8"
    assert value(args, "--tensor-parallel-size") == "2"
    assert "--enable-expert-parallel" not in args
    assert len([word for word in args if word == "--max-num-seqs"]) == 1


@pytest.mark.parametrize(
    ("words", "layout"),
    [
        ((), (2, True)),
        (("profile=low-latency",), (4, True)),
        (("profile=high-throughput",), (2, True)),
        (("profile=high-throughput", W8A8), (1, False)),
        (("profile=high-throughput", W8A8, "parallel.expert_parallel=true"), (1, True)),
        # The platform's word on experts, since this is not what was measured.
        (("profile=high-throughput", W8A8, "parallel.tensor_parallel_size=2"), (2, True)),
        (("profile=high-throughput", "parallel.tensor_parallel_size=1"), (1, False)),
    ],
)
def test_the_layout_is_the_operators_the_profiles_the_platforms(
    words: tuple[str, ...], layout: tuple[int, bool]
) -> None:
    config, _ = npu(*words)
    found = profiles.layout(config, "ascend", A2)
    assert (found.tensor_parallel_size, found.expert_parallel) == layout


def test_on_the_cpu_a_profile_is_a_warning() -> None:
    config, choice = decided(BARE, "profile=low-latency")
    plain = arguments.serve(*decided(BARE), BARE)
    assert arguments.serve(config, choice, BARE) == plain
    (text,) = arguments.warnings(config, choice, BARE)
    assert "means nothing on the platform cpu" in text
    assert arguments.warnings(*decided(BARE), BARE) == ()


def test_a_profile_leaves_another_known_model_its_lengths() -> None:
    words = ("model.id=tiny-omni", "profile=long-context")
    args = serve(*words)
    assert value(args, "--max-model-len") == "32768"
    assert "--hf-overrides" not in args
    assert value(args, "--max-num-seqs") == "14"
    assert any("tiny-omni" in text for text in warnings(*words))
    # A model of which nothing is known may be a quantised copy under its own name.
    assert value(serve("model.path=/w8a8", "profile=long-context"), "--max-model-len") == "131072"


@pytest.mark.parametrize("release", ["v0.18.0", "v0.13.0"])
def test_an_older_release_takes_a_variable_for_what_it_has_no_key_for(release: str) -> None:
    words = (f"release={release}", "profile=low-latency")
    assert "--additional-config" not in serve(*words)
    assert environment(*words)["VLLM_ASCEND_ENABLE_NZ"] == "2"
    assert any(f"not with {release}" in text for text in warnings(*words))


def test_a_profile_that_a_release_can_not_serve_is_refused() -> None:
    text = refused("release=v0.13.0", "profile=long-context")
    assert "truncate" in text
    assert "--hf-overrides" in serve("release=v0.18.0", "profile=long-context")


# Graph mode

MODE = '{"cudagraph_mode":"FULL_DECODE_ONLY"}'


@pytest.mark.parametrize(
    ("driver", "safe"),
    [
        ("25.5.2", False), ("25.5.1", False), ("26.0.rc1", False),
        ("25.5.0", True), ("25.2.0", True), ("24.1.0.3", True), (None, True), ("", True),
    ],
)  # fmt: skip
def test_an_older_or_unknown_driver_gets_the_graphs_that_it_can_do(
    driver: str | None, safe: bool
) -> None:
    host = dataclasses.replace(A2, driver_version=driver)
    args = serve(host=host)
    assert ("--compilation-config" in args) == safe
    assert not safe or value(args, "--compilation-config") == MODE
    # The older releases capture no more than such a driver can do by themselves.
    assert "--compilation-config" not in serve("release=v0.18.0", host=host)
    assert "--compilation-config" not in serve("server.extra_args=[--enforce-eager]", host=host)


def test_the_releases_name_features_that_the_matrix_of_drivers_has() -> None:
    named = {row.graph_mode.feature for row in catalog.releases().values() if row.graph_mode}
    assert named
    assert named <= set(drivers.features())


def test_the_plan_has_the_profile_the_graph_mode_and_the_warnings() -> None:
    """The only one that goes through the whole plan."""
    host = dataclasses.replace(A2, driver_version="25.2.0")
    words = ["product=atlas-a2", "cache.dir=/data"]
    made = make(load(None, {}, words).config, host, MODELS)
    assert value(made.serve_args, "--compilation-config") == MODE
    words += ["profile=low-latency", "release=v0.18.0"]
    made = make(load(None, {}, words).config, host, MODELS)
    assert made.tensor_parallel_size == 4
    assert set(warnings(*words, host=host)) <= set(made.warnings)


# Several options of one name


def test_json_options_are_merged_key_by_key() -> None:
    merged = options.merge(
        {"--a": {"one": 1, "deep": {"x": 1, "y": 2}}},
        {"--a": {"two": 2, "deep": {"y": 3}}, "--b": {"z": 0}},
    )
    assert merged == {"--a": {"one": 1, "two": 2, "deep": {"x": 1, "y": 3}}, "--b": {"z": 0}}


@pytest.mark.parametrize(
    ("words", "lost"),
    [
        ("--compilation-config, '{\"mode\": 0}'", True),
        ("'--compilation-config={\"mode\": 0}'", True),
        ("--compilation_config, '{}'", True),
        ("-cc, 'no json'", True),
        ("-cc.mode=0", True),
        ("--compilation-config.mode, '0'", True),
        ('--compilation-config, \'{"cudagraph_mode": "NONE"}\'', False),
        ("-cc.cudagraph_mode=NONE", False),
        ("--seed, '7'", False),
    ],
)
def test_a_json_option_that_replaces_the_plans_is_warned_of(words: str, lost: bool) -> None:
    found = warnings("profile=low-latency", f"server.extra_args=[{words}]")
    said = [text for text in found if text.startswith("--compilation-config")]
    assert bool(said) == lost
    assert not lost or "cudagraph_mode" in said[0]


# The host's network


def test_on_the_hosts_network_hccl_and_vllm_get_ports_of_their_own() -> None:
    base = ports.FIRST_HCCL_PORT
    found = environment("server.network=host")
    assert found["HCCL_IF_BASE_PORT"] == str(base)
    assert found["VLLM_PORT"] == str(base + ports.HCCL_PORTS)
    other = Claim("other", (), 8000, base)
    second = environment("server.network=host", host=dataclasses.replace(A2, claims=(other,)))
    assert int(second["HCCL_IF_BASE_PORT"]) >= int(found["VLLM_PORT"]) + 1
    assert second["VLLM_PORT"] != found["VLLM_PORT"]


def test_replicas_would_look_for_the_same_port() -> None:
    found = environment("server.network=host", "parallel.data_parallel_size=2")
    assert "HCCL_IF_BASE_PORT" in found
    assert "VLLM_PORT" not in found


def test_a_bridge_network_needs_no_ports_of_its_own() -> None:
    for name in ("HCCL_IF_BASE_PORT", "HCCL_HOST_SOCKET_PORT_RANGE", "VLLM_PORT"):
        assert name not in environment()
    cpu = dict(arguments.environment(*decided(BARE, "server.network=host")))
    assert not {name for name in cpu if name.startswith(("HCCL", "VLLM_PORT"))}


def test_ports_are_where_hccl_takes_them_and_the_kernel_does_not() -> None:
    bases = [ports.FIRST_HCCL_PORT + slot * ports.STRIDE for slot in range(ports.SLOTS)]
    assert len(bases) > 8
    # CANN's reference: HCCL_IF_BASE_PORT is 1024 to 65520, and 32 ports are taken from it on.
    assert all(1024 <= base <= 65520 for base in bases)
    assert bases[-1] + ports.STRIDE <= 65536
    assert ports.HCCL_PORTS >= 32
    assert ports.STRIDE > ports.HCCL_PORTS
    # Linux: ip_local_port_range is 32768 to 60999 unless somebody changed it.
    assert bases[0] > 60999


@pytest.mark.parametrize("name", ["HCCL_IF_BASE_PORT", "HCCL_HOST_SOCKET_PORT_RANGE", "VLLM_PORT"])
def test_a_port_that_is_set_by_hand_is_warned_of_where_it_counts(name: str) -> None:
    word = f"container.environment={{{name}: '50000'}}"
    assert environment(word, "server.network=host")[name] == "50000"
    assert any(name in text for text in warnings(word, "server.network=host"))
    assert warnings(word) == ()


# Devices and debugging


@pytest.mark.parametrize("network", ["bridge", "host"])
@pytest.mark.parametrize("profile", PROFILES)
def test_the_plan_never_says_which_devices_are_visible_inside(profile: str, network: str) -> None:
    found = environment(f"profile={profile}", f"server.network={network}")
    assert "ASCEND_RT_VISIBLE_DEVICES" not in found
    assert "ASCEND_VISIBLE_DEVICES" not in found


@pytest.mark.parametrize("devices", ["4,5", "1,0", "0", "0,1,2", "0,2", "npu-0"])
def test_host_numbers_of_devices_are_refused_inside(devices: str) -> None:
    text = refused(f"container.environment={{ASCEND_RT_VISIBLE_DEVICES: '{devices}'}}")
    assert "could only be 0,1" in text
    assert "npus" in text


def test_numbers_that_change_nothing_are_let_pass() -> None:
    serve("container.environment={ASCEND_RT_VISIBLE_DEVICES: '0,1'}")
    word = "container.environment={ASCEND_RT_VISIBLE_DEVICES: '0,1,2,3'}"
    serve(word, "parallel.data_parallel_size=2")
    # There they are the host's numbers, and the only way to say which.
    privileged = "container.privileged=true"
    word = "container.environment={ASCEND_RT_VISIBLE_DEVICES: '4,5'}"
    serve(word, privileged)
    assert warnings(word, privileged) == ()
    assert any("ASCEND_RT_VISIBLE_DEVICES" in text for text in warnings(privileged))


def test_the_runtimes_variable_is_not_for_the_operator() -> None:
    text = refused("container.environment={ASCEND_VISIBLE_DEVICES: '0,1'}")
    assert "`npus`" in text
    assert "`container.runtime`" in text


def test_blocking_launches_do_not_go_with_graphs() -> None:
    word = "container.environment={ASCEND_LAUNCH_BLOCKING: '1'}"
    assert "--enforce-eager" in refused(word)
    assert "--enforce-eager" in refused(word, "profile=low-latency")
    serve(word, "server.extra_args=[--enforce-eager]")
    serve(word, 'server.extra_args=[--compilation-config, \'{"cudagraph_mode": "none"}\']')
    serve("container.environment={ASCEND_LAUNCH_BLOCKING: '0'}")


def test_on_the_cpu_none_of_this_is_asked() -> None:
    words = [f"container.environment={{{n}: '1'}}" for n in ("ASCEND_LAUNCH_BLOCKING", "VLLM_PORT")]
    for word in words:
        config, choice = decided(BARE, word, "server.network=host")
        arguments.serve(config, choice, BARE)
        assert arguments.warnings(config, choice, BARE) == ()


# Replicas and steps


def test_replicas_and_steps_become_options() -> None:
    args = serve("parallel.data_parallel_size=2", "server.max_num_batched_tokens=4096")
    start = args.index("--tensor-parallel-size")
    assert args[start : start + 4] == ("--tensor-parallel-size", "2", "--data-parallel-size", "2")
    assert value(args, "--max-num-batched-tokens") == "4096"
    assert "--data-parallel-size" not in serve()


# Start-up


def test_a_plan_for_the_cpu_reads_no_more_of_the_catalog_than_it_needs() -> None:
    code = """
import sys
opened = []
sys.addaudithook(lambda name, args: name == "open" and opened.append(str(args[0])))
from appliance.config.load import load
from appliance.inventory.model import Inventory
from appliance.plan import arguments
from appliance.plan.choice import choose
config = load(None, {}, ()).config
choice = choose(config, Inventory("none"), "/models")
arguments.serve(config, choice, Inventory("none"))
arguments.environment(config, choice)
print(*(name.rpartition("/")[2] for name in opened if name.endswith(".yaml")))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    read_files = set(done.stdout.split())
    assert {"platforms.yaml", "releases.yaml"} <= read_files
    assert not read_files & {"profiles.yaml", "options.yaml", "drivers.yaml"}


def test_profiles_are_those_that_the_configuration_has() -> None:
    kinds = get_type_hints(Config)["profile"]
    assert get_args(kinds) == PROFILES
