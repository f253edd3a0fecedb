"""Hostile requests as data: what is sent, and which HTTP statuses are a right ending.

200 stands where the server may as well answer: a strange request, but no harmful one.
"""

from __future__ import annotations

import base64
import itertools
import json
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.e2e import bombs
from tests.e2e.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

CHAT = "/v1/chat/completions"
MEDIA = ROOT / "healthchecks" / "media"
HUGE = 10**9
# A template that would be run a thousand million times.
LOOP = "{% for i in range(1000000000) %}x{% endfor %}"


@dataclass(frozen=True)
class Attack:
    """One request, and how it may end."""

    name: str
    body: bytes
    right: tuple[int, ...] = (400,)
    path: str = CHAT
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)


def question(*parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a chat request with some parts before its words."""
    content = [*parts, {"type": "text", "text": "What is this?"}]
    messages = [{"role": "user", "content": content}]
    return {"model": "tiny-omni", "max_tokens": 4, "messages": messages, **fields}


def part(kind: str, mime: str, *files: bytes | str) -> dict[str, Any]:
    """Return media as a data URL; a text is taken for base64, wrong as it may be."""
    coded = (it if isinstance(it, str) else base64.b64encode(it).decode() for it in files)
    return {"type": f"{kind}_url", f"{kind}_url": {"url": f"data:{mime};base64,{','.join(coded)}"}}


def ask(name: str, *parts: dict[str, Any], right: tuple[int, ...] = (400,), **more: Any) -> Attack:
    """Return an attack by chat request."""
    return Attack(name, json.dumps(question(*parts, **more)).encode(), right)


def raw(name: str, body: bytes, right: tuple[int, ...] = (400,), **more: Any) -> Attack:
    """Return an attack by a body that is no decent document."""
    return Attack(name, body, right, **more)


def at(path: str, name: str, right: tuple[int, ...] = (400,), **fields: Any) -> Attack:
    """Return an attack on another path."""
    body = json.dumps({"model": "tiny-omni", **fields}).encode()
    return Attack(f"{path}: {name}", body, right, path)


def spoilt_media() -> Iterator[Attack]:
    """Media that are cut short, mislabelled, or none at all."""
    image, sound, video = (
        (MEDIA / name).read_bytes() for name in ("image.jpg", "audio.wav", "video.mp4")
    )
    for kind, mime in (("image", "image/png"), ("audio", "audio/wav"), ("video", "video/mp4")):
        yield ask(f"{kind}: bad padding", part(kind, mime, "abc"))
        yield ask(f"{kind}: not base64", part(kind, mime, "!!! not *** base64"))
        yield ask(f"{kind}: empty", part(kind, mime, ""))
        yield ask(f"{kind}: no comma", {"type": f"{kind}_url", f"{kind}_url": {"url": "data:x"}})
        yield ask(f"{kind}: a number", {"type": f"{kind}_url", f"{kind}_url": {"url": 5}})
        yield ask(f"{kind}: null", {"type": f"{kind}_url", f"{kind}_url": None})
    # vLLM calls it not implemented, with 501.
    url = {"url": "data:image/png;utf8,abc"}
    yield ask(
        "an encoding that is not base64", {"type": "image_url", "image_url": url}, right=(501,)
    )
    yield ask("half a JPEG", part("image", "image/jpeg", image[: len(image) // 2]))
    yield ask("half a PNG", part("image", "image/png", bombs.png(64, 64)[:60]))
    yield ask("a WAV's header alone", part("audio", "audio/wav", sound[:44]))
    yield ask("half an MP4", part("video", "video/mp4", video[: len(video) // 2]))
    # vLLM finds no frame, and its own error is one of the server: HTTP 500, and nothing worse.
    none = bombs.avi(64, b"", 0)
    yield ask("an AVI's header alone", part("video", "video/avi", none), right=(400, 500))
    yield ask("a JPEG as a sound", part("audio", "audio/wav", image))
    yield ask("a sound as a video", part("video", "video/mp4", sound))
    yield ask("an MP4 as an image", part("image", "image/png", video))
    yield ask(
        "SVG", part("image", "image/svg+xml", b"<svg><image href='file:///etc/passwd'/></svg>")
    )
    sdp = (
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    )
    yield ask("a video that tells ffmpeg to listen", part("video", "video/mp4", sdp))
    playlist = b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:8000/metrics\n#EXT-X-ENDLIST\n"
    yield ask("a video that is a playlist", part("video", "video/mp4", playlist))
    yield ask("a sound that is a playlist", part("audio", "audio/mpeg", playlist))


def bombs_of_media() -> Iterator[Attack]:
    """Small files that are large when they are opened, and headers that lie."""
    frame = bombs.png(64, 64)
    large = bombs.png(6000, 6000)
    yield ask("PNG: 20000 x 20000, and it is", part("image", "image/png", bombs.png(20000, 20000)))
    yield ask("PNG: 50000 x 50000, and no", part("image", "image/png", bombs.png(50000, 50000, 1)))
    yield ask("PNG: 36 megapixels", part("image", "image/png", large), right=(200,))
    yield ask("PNG: five of 144", *[part("image", "image/png", bombs.png(12000, 12000))] * 5)
    yield ask("GIF: 20000 x 20000", part("image", "image/gif", bombs.gif(20000, 1)))
    yield ask("GIF: 10000 frames", part("image", "image/gif", bombs.gif(64, 10000)), right=(200,))
    yield ask("PNG: one pixel by 8000", part("image", "image/png", bombs.png(1, 8000)))
    yield ask("six images", *[part("image", "image/png", frame)] * 6)
    yield ask("FLAC: an hour in 35 kB", part("audio", "audio/flac", bombs.flac(3700)))
    yield ask("FLAC: ten hours", part("audio", "audio/flac", bombs.flac(36000)))
    lying = bombs.wav(1, 2**32 - 1)
    yield ask("WAV: claims 4 GiB", part("audio", "audio/wav", lying), right=(200, 400))
    for claimed in (2 * HUGE, 10**6):
        film = bombs.avi(64, frame, 32, claimed)
        yield ask(f"AVI: claims {claimed} frames", part("video", "video/avi", film))
    film = bombs.avi(6000, large, 32)
    yield ask("AVI: 32 frames of 36 megapixels", part("video", "video/avi", film))
    yield ask(
        "AVI: one pixel",
        part("video", "video/avi", bombs.avi(1, bombs.png(1, 1), 4)),
        right=(200, 400),
    )
    yield ask("a film of large PNGs", part("video", "video/jpeg", *[large] * 16))
    # The header says 64 x 64; what comes is read into frames of that size.
    film = bombs.avi(64, bombs.png(4000, 4000), 4)
    yield ask("AVI: larger than it says", part("video", "video/avi", film), right=(200, 400))


def media_fields() -> Iterator[Attack]:
    """Fields by which a request could choose how media are read and made ready."""
    film = part("video", "video/avi", bombs.avi(64, bombs.png(64, 64), 8))
    image = part("image", "image/png", bombs.png(64, 64))
    for name, fields in {
        "another reader": {"video_backend": "glm46v"},
        "no such reader": {"video_backend": "nope"},
        "all frames": {"num_frames": -1},
        "too many frames": {"num_frames": HUGE},
        "frames a second": {"fps": 1e300},
    }.items():
        yield ask(f"video: {name}", film, media_io_kwargs={"video": fields})
    for name, given in {
        "blown up": {"min_pixels": 10**12, "max_pixels": 10**12},
        "not made smaller": {"size": {"shortest_edge": 1, "longest_edge": 10**14}},
        "another device": {"device": "cuda:9"},
        "junk": {"text": "x", "images": [1]},
    }.items():
        yield ask(f"processor: {name}", image, mm_processor_kwargs=given)
    yield ask(
        "video: four frames", film, media_io_kwargs={"video": {"num_frames": 4}}, right=(200,)
    )
    track = part("video", "video/mp4", (MEDIA / "video.mp4").read_bytes())
    yield ask(
        "with its sound", track, mm_processor_kwargs={"use_audio_in_video": True}, right=(200,)
    )


def documents() -> Iterator[Attack]:
    """Bodies that are deep, large, no JSON, or no request."""
    deep = 100_000
    head = b'{"model":"tiny-omni","max_tokens":4,"messages":[{"role":"user","content":"x"}],'
    yield raw("deep lists", b"[" * deep + b"]" * deep)
    yield raw("deep objects", b'{"a":' * deep + b"1" + b"}" * deep)
    for key in ("metadata", "tools", "response_format", "chat_template_kwargs"):
        nested = b'{"a":' * 900 + b"1" + b"}" * 900
        yield raw(f"deep {key}", head + b'"%s":%s}' % (key.encode(), nested))
    yield raw("deep parts", b'{"messages":[{"content":' + b"[" * 900 + b"]" * 900 + b"}]}")
    yield raw("not UTF-8", b'{"model":"tiny-omni","messages":[{"role":"user","content":"\xff"}]}')
    yield raw("UTF-16", '{"model":"tiny-omni","messages":[]}'.encode("utf-16"))
    for name, body in (("empty", b""), ("list", b"[]"), ("null", b"null"), ("words", b"hello")):
        yield raw(f"no object: {name}", body)
    yield raw("of another kind", b"{}", headers={"Content-Type": "text/plain"})
    yield raw("compressed", zlib.compress(b"{}"), headers={"Content-Encoding": "gzip"})
    yield raw("200 MB", b'{"model":"' + b"a" * (200 << 20) + b'"}', (413,))
    yield raw("of many values", b'{"a":[' + b"{}," * (10 << 20) + b"1]}")
    yield raw(
        "of many keys", head + b",".join(b'"k%d":1' % n for n in range(200_000)) + b"}", (200,)
    )
    yield raw("a key twice", head + b'"model":"x"}', (404,))
    yield raw("a long number", head + b'"max_tokens":' + b"9" * 100_000 + b"}")
    yield raw("another method", b"", (405,), method="DELETE")
    yield raw("GET", b"", (405,), method="GET")
    for path in ("/v1/../../../etc/passwd", "/v1/models/%2e%2e%2f%2e%2e%2fetc/passwd"):
        yield raw(f"GET {path}", b"", (404,), method="GET", path=path)
    yield raw("a header of 1 MB", b"{}", headers={"X-Long": "a" * 1_000_000})
    yield raw("5000 headers", b"{}", headers={f"X-{n}": "a" * 20 for n in range(5000)})


def fields() -> Iterator[Attack]:
    """Numbers, lists and names that no sane request has."""
    nan, infinite = float("nan"), float("inf")
    for name in ("temperature", "top_p", "min_p", "presence_penalty", "repetition_penalty"):
        for value in (nan, infinite, -1, "x"):
            # A negative penalty is a right one for `presence_penalty`.
            right = (200, 400) if value == -1 else (400,)
            yield ask(f"{name} {value}", right=right, **{name: value})
    for name in ("max_tokens", "n", "top_k", "seed", "prompt_logprobs", "priority", "min_tokens"):
        for value in (10**18, 10**400, -(10**30)):
            right = (200, 400) if (name, value) in {("top_k", 10**18), ("seed", 10**18)} else (400,)
            right = (200, 400) if (name, value) == ("priority", 10**18) else right
            yield ask(
                f"{name} {value:.0e}" if value < 10**300 else f"{name} e400",
                right=right,
                **{name: value},
            )
    yield ask("16384 answers", n=16384)
    yield ask("a million answers, as text", n="1000000")
    yield ask("best of a million", best_of=10**6)
    yield ask("a million logprobs", logprobs=True, top_logprobs=10**6)
    many = [f"x{number}" for number in range(100_000)]
    yield ask("100000 stops", stop=many, right=(200, 400))
    yield ask("an empty stop", stop=[""])
    yield ask("stop tokens", stop_token_ids=[2**70])
    yield ask("a bias on 100000", logit_bias={str(number): 1.0 for number in range(100_000)})
    yield ask("a bias on junk", logit_bias={"x": "y"})
    yield ask("no allowed token", allowed_token_ids=[])
    yield ask("an allowed token of nobody", allowed_token_ids=[HUGE])
    yield ask("a template", chat_template=LOOP)
    yield ask("a template, hidden", chat_template_kwargs={"chat_template": LOOP})
    yield ask("an unknown model", right=(404,), model="../../etc/passwd")
    lora = {"lora_name": "x", "lora_int_id": 1, "lora_path": "/etc"}
    yield ask("a LoRA", lora_request=lora, right=(200, 400))
    yield ask("code", logits_processors=["os.system"], right=(200, 400))
    yield ask("no messages", messages=[])
    yield ask("20000 messages", messages=[{"role": "user", "content": "x"}] * 20_000)
    yield ask("a lone surrogate", messages=[{"role": "user", "content": "\ud800"}])
    yield ask("null parts", messages=[{"role": "user", "content": [None]}])
    yield ask("unknown parts", messages=[{"role": "user", "content": [{"type": "x"}]}])
    tokens = "<|image_pad|><|audio_pad|><|video_pad|>"
    yield ask(
        "the media's own tokens", messages=[{"role": "user", "content": tokens}], right=(200, 400)
    )
    yield ask("a role of its own", messages=[{"role": "root", "content": "x"}], right=(200, 400))


def grammars() -> Iterator[Attack]:
    """Schemas and grammars that a compiler would work on for ever."""

    def bomb(name: str, *right: int, **spec: Any) -> Attack:
        return ask(f"grammar: {name}", right=right or (400,), structured_outputs=spec)

    integers = {"type": "array", "items": {"type": "integer", "multipleOf": 2}}
    yield bomb("a thousand million items", json={**integers, "minItems": HUGE})
    yield bomb("the same, as text", json=json.dumps({**integers, "minItems": HUGE}))
    schema = {"name": "x", "schema": {"type": "string", "maxLength": HUGE}}
    yield ask("a long string", response_format={"type": "json_schema", "json_schema": schema})
    yield bomb("choices", choice=[f"c{number}" for number in range(100_000)])
    yield bomb("values", json={"enum": [f"v{number}" for number in range(100_000)]})
    yield bomb("deep, as text", json="[" * 100_000 + "]" * 100_000)
    wide = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(20_000)}}
    yield bomb("properties", json=wide)
    # llguidance gives up with an error of its own, which vLLM makes HTTP 500 of.
    yield bomb("of nothing but itself", 200, 500, json={"$ref": "#"})
    yield bomb("quantifiers", 200, 400, regex="((a{1,100}){1,100}){1,100}")
    pattern = {"type": "string", "pattern": "^(a{1,1000}){1,1000}$"}
    yield bomb("quantifiers in a schema", 200, 400, json=pattern)
    yield bomb("parentheses", regex="(" * 10_000)
    yield bomb("states", 200, 400, regex="(a|b)*a(a|b){18}")
    yield bomb("left recursion", 200, 400, grammar='root ::= root "a" | "a"')
    optional = "root ::= " + " ".join(['("a" | "b" | "")'] * 500)
    yield bomb("all of them optional", 200, 400, grammar=optional)
    yield bomb("junk", structural_tag="{}")


def elsewhere() -> Iterator[Attack]:
    """Paths that are not for chats, all of which are open as well."""
    completions = "/v1/completions"
    yield at(completions, "100000 prompts", prompt=["a"] * 100_000, max_tokens=1)
    yield at(completions, "300 prompts of 10 answers", prompt=["a"] * 300, n=10, max_tokens=1)
    yield at(completions, "a long prompt", prompt="a " * 500_000, max_tokens=1)
    yield at(completions, "tokens of nobody", prompt=[HUGE, 2**70], max_tokens=1)
    yield at(completions, "embeddings", prompt_embeds="AAAA", max_tokens=1)
    yield at("/tokenize", "20 MB", prompt="ab cd " * 3_500_000)
    yield at("/tokenize", "20 MB that look like media", prompt="data:" + "ab cd " * 3_500_000)
    yield at("/detokenize", "tokens of nobody", tokens=[-1, 2**40])
    yield at("/scale_elastic_ep", "scale", (404,), new_data_parallel_size=2)
    generate = "/inference/v1/generate"
    yield at(generate, "tokens of nobody", token_ids=[HUGE], sampling_params={"max_tokens": 2})
    yield at(generate, "answers", token_ids=[1], sampling_params={"max_tokens": 2, "n": 10**4})
    bomb = part("audio", "audio/flac", bombs.flac(3700))["audio_url"]["url"]
    content = [{"type": "audio_url", "audio_url": {"url": bomb}}]
    yield at("/tokenize", "a sound", messages=[{"role": "user", "content": content}])
    yield at("/invocations", "a sound", messages=[{"role": "user", "content": content}])
    form = {"type": "json_schema", "name": "x", "schema": {"type": "array", "minItems": HUGE}}
    yield at("/v1/responses", "grammar", input="x", text={"format": form})
    yield form_with("an hour of sound", bombs.flac(3700))
    yield form_with("a playlist", b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:8000/metrics\n")
    yield form_with("junk", b"\x00" * 100)
    yield form_with("three seconds", bombs.flac(3), right=(200,))


def form_with(name: str, file: bytes, right: tuple[int, ...] = (400,)) -> Attack:
    """Return an attack by a form, as /v1/audio takes it."""
    head = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny-omni\r\n'
    head += b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    path = "/v1/audio/transcriptions"
    return Attack(f"{path}: {name}", head + file + b"\r\n--x--\r\n", right, path, headers=kind)


def every() -> Iterator[Attack]:
    """All of them."""
    groups = spoilt_media, bombs_of_media, media_fields, documents, fields, grammars, elsewhere
    return itertools.chain.from_iterable(group() for group in groups)


# What no decent client sends over a connection, and what the answer must begin with.
WIRE: dict[str, tuple[bytes, bytes]] = {
    "two lengths, one chunked": (
        (
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /version HTTP/1.1\r\nHost: x\r\n\r\n"
        ),
        b"HTTP/1.1 400",
    ),
    "two lengths": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nContent-Length: 2\r\n\r\n{}GET ",
        b"HTTP/1.1 400",
    ),
    "a negative length": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -6\r\n\r\n{}",
        b"HTTP/1.1 400",
    ),
    "an unknown coding": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 400",
    ),
    "a chunk without a length": (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
        b"HTTP/1.1 400",
    ),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200, b"HTTP/1.1 400"),
    "a WebSocket of nobody": (
        b"GET /v1/nowhere HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        + b"\xff"
        * 100,
        b"HTTP/1.1 403",
    ),
    "a broken WebSocket": (
        (
            b"GET /v1/nowhere HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"\r\njunk"
        ),
        b"HTTP/1.1 400",
    ),
    "50 requests at once": (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 50, b"HTTP/1.1 200"),
}
