"""The layers of configuration: what wins, where it came from, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from appliance.config.load import Key, Loaded, keys, load, schema
from appliance.config.model import Config
from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("clean")
KEYS = list(keys())


def file_of(clean: Path, text: str) -> Path:
    path = clean / "some.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(error_id: str, *overrides: str, file: Path | None = None, **variables: str) -> str:
    """The message with which this configuration is refused."""
    with pytest.raises(ApplianceError) as caught:
        load(file, variables, overrides)
    assert caught.value.id == error_id, caught.value.message
    return caught.value.message


def flag(*overrides: str) -> Loaded:
    return load(None, {}, overrides)


# Precedence and origins


def test_without_any_layer_everything_is_the_default() -> None:
    loaded = load(None, {"PATH": "/bin", "UNRELATED_NAME": "x"})
    assert loaded == Loaded(Config(), {})


def test_each_layer_wins_over_the_one_before(clean: Path) -> None:
    path = file_of(clean, "server: {port: 1001, max_num_seqs: 5}\nname: from-file\n")
    variables = {"APPLIANCE_SERVER_PORT": "1002", "APPLIANCE_NAME": "from-variable"}
    loaded = load(path, variables, ["server.port=1003"])
    assert loaded.config.server.port == 1003
    assert loaded.config.name == "from-variable"
    assert loaded.config.server.max_num_seqs == 5
    assert loaded.config.server.bind == "127.0.0.1"
    assert loaded.origins == {
        "server.port": "flag",
        "name": "APPLIANCE_NAME",
        "server.max_num_seqs": str(path),
    }


def test_the_last_of_several_flags_wins() -> None:
    assert flag("server.port=1", "server.port=2").config.server.port == 2


def test_a_flag_replaces_a_whole_list_or_mapping(clean: Path) -> None:
    path = file_of(clean, "container: {environment: {A: '1', B: '2'}}\nnpus: [0, 1, 2]\n")
    loaded = load(path, {}, ["container.environment={C: x}", "npus=[7]"])
    assert loaded.config.container.environment == {"C": "x"}
    assert loaded.config.npus == [7]


def test_value_follows_the_dotted_name() -> None:
    assert flag("model.id=a/b").value("model.id") == "a/b"
    assert flag("model.id=a/b").value("name") == "qwen3-omni"


def test_appliance_yaml_of_the_current_folder_is_read_unless_another_is_named(
    clean: Path,
) -> None:
    (clean / "appliance.yaml").write_text("name: default\n", encoding="utf-8")
    named = file_of(clean, "name: named\n")
    assert load(None, {}).config.name == "default"
    assert load(None, {"APPLIANCE_CONFIG": str(named)}).config.name == "named"
    assert load(named, {"APPLIANCE_CONFIG": "/nowhere"}).config.name == "named"


def test_variables_of_the_launcher_itself_are_no_keys() -> None:
    assert load(None, {"APPLIANCE_DEBUG": "1"}).config == Config()


def test_an_empty_variable_means_that_the_plan_decides() -> None:
    assert load(None, {"APPLIANCE_MODEL_ID": ""}).config.model.id is None


# The file


@pytest.mark.parametrize("text", ["", "\n", "# nothing yet\n", "---\n", "server:\n"])
def test_an_empty_file_or_section_is_fine(clean: Path, text: str) -> None:
    assert load(file_of(clean, text), {}).config == Config()


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n", "42\n"])
def test_a_file_that_is_no_mapping_is_refused(clean: Path, text: str) -> None:
    path = file_of(clean, text)
    message = refused("config-invalid", file=path)
    assert str(path) in message
    assert "mapping" in message


BROKEN = [
    "server: [1, 2",
    "a: b: c",
    "\tname: x",
    "--- a\n--- b",
    "name: !!python/object:os.system x",
    "model: {revision: !!timestamp 2024-13-45}",
    # Deeper than what Python writes down.
    "npus: " + "[" * 2_000 + "]" * 2_000,
    "name: \0",
]


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_a_file_that_is_not_yaml_is_refused(clean: Path, text: str) -> None:
    path = file_of(clean, text)
    assert str(path) in refused("config-invalid", file=path)


@pytest.mark.parametrize("text", ["[1, 2", "!!int x", "a: b: c", "\udcff"])
def test_a_variable_or_flag_that_is_not_yaml_is_refused(text: str) -> None:
    assert "APPLIANCE_NAME" in refused("config-invalid", APPLIANCE_NAME=text)
    assert "--set name" in refused("config-invalid", f"name={text}")


def test_a_file_that_is_not_utf8_is_refused(clean: Path) -> None:
    path = clean / "some.yaml"
    path.write_bytes(b"name: \xff\xfe\n")
    assert str(path) in refused("config-invalid", file=path)


@pytest.mark.parametrize("name", ["absent.yaml", ".", "n" * 300])
def test_a_named_file_must_be_a_file(clean: Path, name: str) -> None:
    assert name in refused("config-invalid", file=clean / name)
    assert name in refused("config-invalid", APPLIANCE_CONFIG=name)


@pytest.mark.parametrize("text", ["server: 8000\n", "server: [a]\n", "model: Qwen/Qwen3\n"])
def test_a_section_must_be_a_section(clean: Path, text: str) -> None:
    message = refused("config-invalid", file=file_of(clean, text))
    assert text.partition(":")[0] in message
    assert "section" in message


# Words of YAML


@pytest.mark.parametrize("word", ["no", "on-failure", "unless-stopped", "always"])
def test_restart_policies_are_words(clean: Path, word: str) -> None:
    path = file_of(clean, f"container:\n  restart: {word}\n")
    assert load(path, {}).config.container.restart == word
    assert flag(f"container.restart={word}").config.container.restart == word


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "y", "n", "YES", "Off"])
def test_words_that_yaml_1_1_takes_for_booleans_stay_words(word: str) -> None:
    assert flag(f"model.served_name={word}").config.model.served_name == word


# A revision, a name and a variable reach the model and the container as they were written.
@pytest.mark.parametrize(
    "text", ["0123", "010", "0x1F", "0b_", "1_000", "1:30", "2026-08-16", "2024-13-45", "1e5", "12"]
)
def test_what_is_a_number_or_date_to_yaml_1_1_alone_stays_as_it_is(text: str) -> None:
    loaded = flag(f"model.revision={text}", f"container.environment={{A: {text}}}")
    assert loaded.config.model.revision == text
    assert loaded.config.container.environment == {"A": text}


@pytest.mark.parametrize("word", ["true", "True", "false", "False"])
def test_true_and_false_are_booleans(word: str) -> None:
    assert flag(f"container.privileged={word}").config.container.privileged is (
        word.lower() == "true"
    )


def test_numbers_are_accepted_where_text_is_meant() -> None:
    loaded = flag("container.environment={HCCL_BUFFSIZE: 1024}", "model.revision=1234567")
    assert loaded.config.container.environment == {"HCCL_BUFFSIZE": "1024"}
    assert loaded.config.model.revision == "1234567"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "'::'", "fe80::1", "192.168.1.5"])
def test_addresses_are_text(address: str) -> None:
    assert flag(f"server.bind={address}").config.server.bind == address.strip("'")


# Unknown keys


def test_an_unknown_key_of_the_file_is_refused_with_the_nearest(clean: Path) -> None:
    path = file_of(clean, "platfrom: cpu\n")
    message = refused("config-unknown-key", file=path)
    assert "platfrom" in message
    assert str(path) in message
    assert "Did you mean platform?" in message


def test_an_unknown_key_of_a_section_is_refused_with_the_nearest(clean: Path) -> None:
    message = refused("config-unknown-key", file=file_of(clean, "server:\n  prot: 8000\n"))
    assert "server.prot" in message
    assert "Did you mean server.port?" in message


def test_a_key_in_the_wrong_section_is_refused(clean: Path) -> None:
    message = refused("config-unknown-key", file=file_of(clean, "port: 8000\n"))
    assert "server.port" in message


def test_an_unknown_variable_is_refused_with_the_nearest() -> None:
    message = refused("config-unknown-key", APPLIANCE_SERVER_PROT="8000")
    assert "APPLIANCE_SERVER_PROT" in message
    assert "Did you mean APPLIANCE_SERVER_PORT?" in message


def test_an_unknown_flag_is_refused_with_the_nearest() -> None:
    message = refused("config-unknown-key", "container.shmsize=1g")
    assert "a flag" in message
    assert "Did you mean container.shm_size?" in message


def test_nothing_is_suggested_for_what_is_like_no_key() -> None:
    assert "Did you mean" not in refused("config-unknown-key", "qqqqqqqqqq=1")


@pytest.mark.parametrize("name", ["1", "true", "null", "[a]", "2024-01-05"])
def test_keys_that_are_no_text_are_refused_too(clean: Path, name: str) -> None:
    path = file_of(clean, f"? {name}\n: x\n")
    with pytest.raises(ApplianceError) as caught:
        load(path, {})
    assert caught.value.id in {"config-unknown-key", "config-invalid"}


def test_a_section_can_not_be_set_by_a_flag() -> None:
    assert "server" in refused("config-unknown-key", "server={port: 1}")


def test_a_flag_needs_a_value() -> None:
    assert "KEY=VALUE" in refused("config-invalid", "server.port")


# Types and limits

INVALID = {
    "server.port": ["0", "65536", "-1", "abc", "[1]", "1.5"],
    "server.bind": ["example.com", "0.0.0.0/0", "''", '"127.0.0.1\\n"'],
    "server.network": ["none", "Host"],
    "server.max_model_len": ["0", "255", "many"],
    "server.max_num_seqs": ["0"],
    "server.memory_utilization": ["0", "0.99", "-1"],
    "server.limit_mm_per_prompt": ["{text: 1}", "{image: many}", "3"],
    "server.allowed_media_domains": ["example.com", "[{a: b}]"],
    "server.extra_args": ["--foo", "{a: b}"],
    "container.shm_size": ["1", "1gb", "g", "0g", "-1g", "1 g", "1.5g"],
    "container.memory": ["64", "64 GiB"],
    "container.restart": ["never", "true"],
    "container.ulimits": ["{nofile: many}", "[nofile]"],
    "container.privileged": ["maybe", "3"],
    "container.environment": ["[A=1]", "{A: [1]}"],
    "parallel.tensor_parallel_size": ["0", "3", "8", "two"],
    "parallel.expert_parallel": ["maybe"],
    "platform": ["gpu", "Ascend"],
    "name": ["Upper", "a b", "a/b", "-a", "''", "a" * 64, "a;b", "ä"],
    "npus": ["0", "[a]", "{0: 1}"],
    "timeouts.probe": ["0", "-1", "soon"],
    "timeouts.smoke": ["0", "-1", "soon"],
    "timeouts.stop": ["0", "1.5"],
}


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, texts in INVALID.items() for text in texts]
)
def test_a_bad_value_is_refused_with_its_key_and_origin(name: str, text: str) -> None:
    message = refused("config-invalid", f"{name}={text}")
    assert name in message
    assert "flag" in message


def test_every_bad_value_is_named_at_once_with_where_it_came_from(clean: Path) -> None:
    path = file_of(clean, "server: {port: 0}\n")
    variables = {"APPLIANCE_CONTAINER_SHM_SIZE": "big"}
    with pytest.raises(ApplianceError) as caught:
        load(path, variables, ["name=A"])
    by_key = {line.split()[0]: line for line in caught.value.message.splitlines()}
    assert f"(from {path})" in by_key["server.port"]
    assert "(from APPLIANCE_CONTAINER_SHM_SIZE)" in by_key["container.shm_size"]
    assert "(from flag)" in by_key["name"]


# The keys and their schema


def test_every_variable_is_unique_and_none_is_reserved() -> None:
    variables = [key.variable for key in KEYS]
    assert len(set(variables)) == len(variables)
    assert not set(variables) & {"APPLIANCE_DEBUG", "APPLIANCE_CONFIG"}


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_every_key_has_a_description(key: Key) -> None:
    description = key.field.metadata["description"]
    assert description.endswith(".")
    assert len(description) > 15


def test_no_two_configurations_share_a_mutable_default() -> None:
    Config().container.environment["A"] = "1"
    Config().server.extra_args.append("--x")
    assert Config().container.environment == {}
    assert Config().server.extra_args == []


def test_defaults_pass_their_own_limits() -> None:
    overrides = [f"{key.name}={key.default}" for key in KEYS if isinstance(key.default, str)]
    assert flag("npus=null", *overrides).config == Config()


def objects(node: Any) -> Iterator[dict[str, Any]]:
    """Every object with named properties in a JSON schema."""
    if isinstance(node, dict):
        if "properties" in node:
            yield node
        for child in node.values():
            yield from objects(child)


def resolved(whole: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """The node, or what it refers to."""
    reference = node.get("$ref")
    if reference is None:
        return node
    found: dict[str, Any] = whole["$defs"][str(reference).removeprefix("#/$defs/")]
    return found


def test_the_schema_refuses_what_the_loader_refuses() -> None:
    whole = schema()
    sections = [
        field for field in dataclasses.fields(Config) if "description" not in field.metadata
    ]
    found = list(objects(whole))
    assert len(found) == 1 + len(sections)
    for node in found:
        assert node["type"] == "object"
        assert node["additionalProperties"] is False
        assert not node.get("required")


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_the_schema_describes_every_key(key: Key) -> None:
    whole = schema()
    node: dict[str, Any] = whole
    for part in key.name.split("."):
        node = resolved(whole, node)["properties"][part]
    assert node["description"] == key.field.metadata["description"]
    assert "type" in node or "anyOf" in node or "enum" in node
    # A default that is made anew for each configuration is not in Pydantic's schema.
    assert node.get("default", type(key.default)()) == key.default


def test_the_schema_carries_the_limits() -> None:
    port = schema()["$defs"]["Server"]["properties"]["port"]["anyOf"][0]
    assert (port["type"], port["minimum"], port["maximum"]) == ("integer", 1, 65535)
    restart = schema()["$defs"]["Container"]["properties"]["restart"]
    assert restart["enum"] == ["no", "on-failure", "unless-stopped", "always"]
