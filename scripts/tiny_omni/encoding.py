"""From samples to what the model takes: token ids, positions in time and space, mel frames.

This is what Qwen3OmniMoeProcessor and the model's `get_rope_index` (transformers 4.57.6) do for
one user message, without their minutes of work for a training's worth of samples.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import tokenizers
from transformers import WhisperFeatureExtractor

from healthchecks.stimuli.sounds import SAMPLE_RATE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from scripts.tiny_omni.samples import Part, Sample

# How the published tokenizer divides text before it merges bytes.
WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Pixels of a token's side, frames of a token's time.
SIDE: Final = 32
FRAMES: Final = 2
# Thirteen positions are a second; a token's two frames are taken for two seconds.
FILM_STEP: Final = 26
MEL_SECOND: Final = 100
TOKENS_SECOND: Final = 13

Position = tuple[int, int, int]


class Encoder:
    """Encodes samples with the tokenizer of a model folder."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = tokenizer(folder)
        self._mel = WhisperFeatureExtractor(
            feature_size=128,
            sampling_rate=SAMPLE_RATE,
            hop_length=SAMPLE_RATE // MEL_SECOND,
            chunk_length=30,
            n_fft=400,
        )

    def words(self, text: str) -> list[int]:
        """Return the ids of a text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def token(self, name: str) -> int:
        """Return the id of a special token."""
        found: int = self._tokenizer.token_to_id(name)
        return found

    def mel(self, samples: Any) -> Any:
        """Return the mel frames of a sound, (128, frames), less the padding."""
        scaled = np.asarray(samples, dtype=np.float32) / 32768.0
        found = self._mel(
            scaled,
            sampling_rate=SAMPLE_RATE,
            padding=True,
            truncation=False,
            return_attention_mask=True,
            return_tensors="np",
        )
        frames = int(found["attention_mask"][0].sum())
        return found["input_features"][0][:, :frames].astype(np.float32)

    def encode(self, sample: Sample) -> Encoded:
        """Encode a sample; the answer is what is to be learnt."""
        encoded = Encoded(self)
        encoded.text("<|im_start|>user\n")
        for part in sample.parts:
            encoded.part(part)
        encoded.text("<|im_end|>\n<|im_start|>assistant\n<think>\n")
        encoded.answer_from = len(encoded.ids)
        encoded.text(sample.answer)
        return encoded


class Encoded:
    """An encoded sample, as it grows.

    Attributes:
        ids: the tokens.
        positions: of each token, in time, height and width.
        answer_from: the answer's first token.
        images, films, sounds: pixels, pixels and mel frames, in their order.

    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._next = 0
        self.ids: list[int] = []
        self.positions: list[Position] = []
        self.answer_from = 0
        self.images: list[Any] = []
        self.films: list[Any] = []
        self.sounds: list[Any] = []

    def text(self, text: str) -> None:
        """Append text, which may hold special tokens."""
        self._append((token, 1) for token in self._encoder.words(text))

    def part(self, part: Part) -> None:
        """Append a part of a message."""
        if part.kind == "text":
            self.text(part.text)
        elif part.kind == "image":
            self.images.append(part.pixels)
            self._tokens("<|vision_start|>")
            self._place("<|image_pad|>", grid(part.pixels[None], self._next, 0))
            self._tokens("<|vision_end|>")
        elif part.kind == "audio":
            count = self._sound(part.sound)
            self._tokens("<|audio_start|>", *["<|audio_pad|>"] * count, "<|audio_end|>")
        else:
            self._film(part)

    def _film(self, part: Part) -> None:
        self.films.append(part.pixels)
        frames = part.pixels[::FRAMES]
        if part.sound is None:
            self._tokens("<|vision_start|>")
            self._place("<|video_pad|>", grid(frames, self._next, FILM_STEP))
            self._tokens("<|vision_end|>")
            return
        count = self._sound(part.sound)
        self._tokens("<|vision_start|>", "<|audio_start|>")
        seen = grid(frames, self._next, FILM_STEP)
        heard = [(self._next + index,) * 3 for index in range(count)]
        # Sorted by time; of what is at once, the picture comes first.
        video, audio = (self._encoder.token(name) for name in ("<|video_pad|>", "<|audio_pad|>"))
        both = [(position, video) for position in seen]
        both += [(position, audio) for position in heard]
        both.sort(key=lambda entry: entry[0][0])
        self.ids += [token for _, token in both]
        self.positions += [position for position, _ in both]
        self._next = max(max(position) for position, _ in both) + 1
        self._tokens("<|audio_end|>", "<|vision_end|>")

    def _sound(self, samples: Any) -> int:
        mel = self._encoder.mel(samples)
        self.sounds.append(mel)
        return sound_tokens(mel.shape[1])

    def _tokens(self, *names: str) -> None:
        self._append((self._encoder.token(name), 1) for name in names)

    def _append(self, tokens: Iterable[tuple[int, int]]) -> None:
        for token, step in tokens:
            self.ids.append(token)
            self.positions.append((self._next,) * 3)
            self._next += step

    def _place(self, name: str, positions: Sequence[Position]) -> None:
        self.ids += [self._encoder.token(name)] * len(positions)
        self.positions += positions
        self._next = max(map(max, positions)) + 1


def grid(frames: Any, start: int, step: int) -> list[Position]:
    """Return the positions of the tokens of some frames, `step` apart in time."""
    count, height, width = frames.shape[0], frames.shape[1] // SIDE, frames.shape[2] // SIDE
    return [
        (start + time * step, start + row, start + column)
        for time in range(count)
        for row in range(height)
        for column in range(width)
    ]


def sound_tokens(frames: int) -> int:
    """Return how many tokens so many mel frames become: three convolutions, second by second."""
    seconds, rest = divmod(frames, MEL_SECOND)
    for _ in range(3):
        rest = (rest - 1) // 2 + 1
    return seconds * TOKENS_SECOND + rest


def tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a model folder, as transformers makes it."""
    vocab = json.loads((folder / "vocab.json").read_text("utf-8"))
    lines = (folder / "merges.txt").read_text("utf-8").splitlines()
    merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#")]
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=merges))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = tokenizers.decoders.ByteLevel()
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    added = {int(index): token for index, token in config["added_tokens_decoder"].items()}
    made.add_tokens(
        [
            tokenizers.AddedToken(token["content"], special=token["special"], normalized=False)
            for _, token in sorted(added.items())
        ]
    )
    for index, token in added.items():
        if made.token_to_id(token["content"]) != index:
            raise ValueError(f"{token['content']} is not token {index}")
    return made
