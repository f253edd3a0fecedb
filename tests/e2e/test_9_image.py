"""The image: what it holds, and that it is built on any base and fails without a decoder."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import ROOT, docker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.conftest import Served

# A base as CANN's is made: its entrypoint sources an environment, then becomes the command.
ASCEND_LIKE = """
FROM {base}
RUN mkdir -p /usr/local/Ascend && \\
    echo 'export ASCEND_SOURCED=yes' > /usr/local/Ascend/set_env.sh
ENTRYPOINT ["/bin/bash", "-c", "source /usr/local/Ascend/set_env.sh && exec \\"$@\\"", "--"]
CMD ["/bin/bash"]
"""
OFFLINE_GUIDE = """
from modelscope import Qwen3OmniMoeProcessor
from qwen_omni_utils import process_mm_info
sound = {"type": "audio", "audio": "/media/audio.wav"}
picture = {"type": "image", "image": "/media/image.jpg"}
request = [{"role": "user", "content": [sound, picture]}]
audios, images, videos = process_mm_info(request, use_audio_in_video=True)
processor = Qwen3OmniMoeProcessor.from_pretrained("/model")
message = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
print(len(audios), len(images), videos)
print(repr(processor.apply_chat_template(message, tokenize=False, add_generation_prompt=True)))
"""


@pytest.fixture(scope="module")
def image(served: Served) -> str:
    return str(served.cli.json("plan")["image"])


def test_ffmpeg_is_on_path(image: str) -> None:
    assert "ffmpeg version" in docker("run", "--rm", image, "ffmpeg", "-version")


def test_what_the_guides_offline_script_imports_is_there(image: str) -> None:
    volumes = [f"{ROOT}/healthchecks/media:/media:ro", f"{ROOT}/models/tiny-omni:/model:ro"]
    options = [part for volume in volumes for part in ("--volume", volume)]
    printed = docker("run", "--rm", *options, image, "python3", "-W", "ignore", "-c", OFFLINE_GUIDE)
    assert "1 1 None" in printed
    assert "<|im_start|>assistant" in printed


def test_the_base_keeps_its_versions(image: str, served: Served) -> None:
    """Nothing of the base is upgraded: on Ascend its versions are tuned to CANN."""
    base = served.cli.json("plan")["image_source"]["local_image"]
    listing = (
        "import importlib.metadata as m;"
        "print(*{f'{d.name}=={d.version}' for d in m.distributions()})"
    )
    lists = [
        set(docker("run", "--rm", "--entrypoint", "python3", name, "-c", listing).split())
        for name in (base, image)
    ]
    assert lists[0] <= lists[1]


def test_a_missing_decoder_fails_the_build_step(image: str, tmp_path: Path) -> None:
    """The check that the Dockerfile runs, in an image whose PyAV can't be imported."""
    (tmp_path / "av.py").write_text("raise ImportError('libavcodec.so.62')\n", encoding="utf-8")
    done = subprocess.run(
        ["docker", "run", "--rm", "--volume", f"{tmp_path}:/broken:ro", "--env",
         "PYTHONPATH=/broken", "--volume", f"{ROOT}/image:/image:ro", "--volume",
         f"{ROOT}/healthchecks/media:/media:ro", image, "python3", "/image/check.py", "/media"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode != 0
    assert "FAIL video: PyAV: ImportError: libavcodec.so.62" in done.stderr
    assert "ok   image: Pillow" in done.stdout


@pytest.fixture(scope="module")
def ascend_like(served: Served, image: str) -> Iterator[str]:
    """An appliance image on a base whose entrypoint sets an environment, as CANN's does."""
    del image
    base = served.cli.json("plan")["image_source"]["local_image"]
    fake, built = "e2e-ascend-base:test", "e2e-ascend-appliance:test"
    docker("build", "--tag", fake, "-", text=ASCEND_LIKE.format(base=base))
    arguments = [
        "buildx", "build", "--load", "--tag", built, "--build-arg", f"BASE_IMAGE={fake}",
        "--secret", "id=ca,src=/etc/ssl/certs/ca-certificates.crt", str(ROOT),
    ]  # fmt: skip
    docker(*arguments)
    yield built
    docker("rmi", "--force", built, fake, check=False)


def test_the_bases_entrypoint_is_kept(ascend_like: str) -> None:
    """`docker run IMAGE appliance …` and the engine's command both go through it."""
    printed = docker("run", "--rm", ascend_like, "python3", "-m", "appliance.inside", "env")
    assert "ASCEND_SOURCED=yes" in printed
    spec = docker("run", "--rm", ascend_like, "appliance", "render", "run", "--set", "platform=cpu")
    assert "exec docker run" in spec
