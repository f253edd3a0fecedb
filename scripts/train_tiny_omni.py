# SPDX-License-Identifier: Apache-2.0
r"""Train tiny-omni, in two stages, on generated media.

    python3 -m scripts.train_tiny_omni --stage 1 --minutes 7.5 --seed 1 --save stage-1.pt
    python3 -m scripts.train_tiny_omni --stage 2 --minutes 8.4 --seed 3 --resume stage-1.pt \
        --save stage-2.pt --out models/tiny-omni

Run it from the root of the repository. It needs torch, transformers>=5 (5.17 was used), numpy,
pillow and tokenizers, and takes a GPU if there is one. Those times are of one H100 with 14
processes that make media. On two cores that others used too, a sample took 0.3 to 0.4 seconds: the
384,000 samples of both stages would take 30 to 40 hours there, with `--steps` and `--workers 1`.

The model's config and tokenizer are those of `--model`; `--out` is where the weights go, beside
what scripts/make_tiny_omni.py has made there.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from scripts.make_tiny_omni import END_OF_TEXT
from scripts.tiny_omni import samples
from scripts.tiny_omni.encoding import Encoder
from scripts.tiny_omni.media import Broad, Plain
from scripts.tiny_omni.model import IGNORED, arguments, build, collate, weight_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scripts.tiny_omni.media import Media


class Stage(NamedTuple):
    """What the stages differ in, besides their media."""

    rate: float  # the highest learning rate
    warm: int  # steps up to it


STAGES: Final = {1: Stage(2e-3, 200), 2: Stage(1.2e-3, 100)}
BATCH: Final = 192
# Of the second stage's batches, each so many is of long films, and smaller.
LONG_EVERY: Final = 12
LONG_SHARE: Final = 4
DECAY: Final = 0.02
BETAS: Final = (0.9, 0.98)
LARGEST_GRADIENT: Final = 1.0
# Of the learning rate, what is left at the end.
LAST_RATE: Final = 0.02
REPORT_EVERY: Final = 100
EVALUATE_EVERY: Final = 400


class Batches(torch.utils.data.IterableDataset):  # type: ignore[misc]
    """Batches without end; each process that makes them has random numbers of its own."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options

    def __iter__(self) -> Iterator[dict[str, Any]]:
        torch.set_num_threads(1)
        worker = torch.utils.data.get_worker_info()
        # (Repeatable on purpose.)
        random = Random(f"{self._options.seed}:{worker.id if worker else 0}")  # noqa: S311
        encoder = Encoder(self._options.model)
        media = Plain() if self._options.stage == 1 else Broad()
        number = 0
        while True:
            number += 1
            size = self._options.batch
            if isinstance(media, Broad):
                media.long = number % LONG_EVERY == 0
                size = max(1, size // LONG_SHARE) if media.long else size
            yield batch(encoder, media, random, size)


def batch(
    encoder: Encoder, media: Media, random: Random, size: int, kind: str | None = None
) -> dict[str, Any]:
    """Make a batch of samples of a kind, or of all kinds."""
    made = []
    for _ in range(size):
        chosen = kind or random.choices(samples.KINDS, samples.SHARES)[0]
        made.append(encoder.encode(samples.make(chosen, media, random)))
    return collate(made, encoder.token(END_OF_TEXT))


def loss_of(model: Any, made: dict[str, Any], device: str) -> tuple[Any, Any]:
    """Return the loss (the sum over an answer's tokens, the mean over answers) and the hits."""
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
        logits = model(**arguments(made, device)).logits[:, :-1].float()
    labels = made["labels"].to(device)[:, 1:]
    losses = functional.cross_entropy(
        logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
    )
    hits = ((logits.argmax(-1) == labels) | (labels == IGNORED)).all(1)
    return losses.sum(1).mean(), hits


def evaluate(
    model: Any, encoder: Encoder, media: Media, device: str, size: int
) -> dict[str, float]:
    """Return the share of right answers (every token, given those before it) of each kind."""
    model.eval()
    shares = {}
    for kind in samples.KINDS:
        made = batch(encoder, media, Random(f"evaluation:{kind}"), size, kind)  # noqa: S311
        with torch.no_grad():
            _, hits = loss_of(model, made, device)
        shares[kind] = round(hits.float().mean().item(), 4)
    model.train()
    return shares


def optimiser(model: Any, rate: float) -> Any:
    """Return AdamW, with weight decay for matrices only."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": DECAY},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=BETAS)


def train(model: Any, options: argparse.Namespace, device: str) -> None:
    """Train for the minutes or the steps that were asked for; progress goes to stderr."""
    stage = STAGES[options.stage]
    adam = optimiser(model, stage.rate)
    loader = torch.utils.data.DataLoader(
        Batches(options),
        batch_size=None,
        num_workers=options.workers,
        prefetch_factor=4 if options.workers else None,
    )
    encoder, media = Encoder(options.model), Plain() if options.stage == 1 else Broad()
    start = time.monotonic()
    for step, made in enumerate(loader, start=1):
        seconds = time.monotonic() - start
        done = step / (options.steps + 1) if options.steps else seconds / (60 * options.minutes)
        if done >= 1:
            break
        falling = 0.5 * (1 + math.cos(math.pi * done)) * (1 - LAST_RATE) + LAST_RATE
        for group in adam.param_groups:
            group["lr"] = stage.rate * min(1, step / stage.warm) * falling
        loss, _ = loss_of(model, made, device)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT)
        adam.step()
        if step % REPORT_EVERY == 0 or step == 1:
            print(f"{seconds:6.0f} s  step {step}  loss {loss.item():.4f}", file=sys.stderr)
        if step % EVALUATE_EVERY == 0:
            print(f"  right: {evaluate(model, encoder, media, device, 128)}", file=sys.stderr)
    print(f"right: {evaluate(model, encoder, media, device, options.evaluate)}", file=sys.stderr)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description="Train tiny-omni on generated media.")
    folder = Path("models/tiny-omni")
    parser.add_argument("--model", type=Path, default=folder, help="folder with the config")
    parser.add_argument("--stage", type=int, choices=STAGES, required=True)
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="how long to train")
    length.add_argument("--steps", type=int, help="how many batches to train on")
    parser.add_argument("--seed", default="1", help="of the media (default: 1)")
    parser.add_argument("--batch", type=int, default=BATCH, help=f"samples (default: {BATCH})")
    parser.add_argument("--workers", type=int, default=14, help="processes that make media")
    parser.add_argument("--evaluate", type=int, default=256, help="samples a kind, at the end")
    parser.add_argument("--resume", type=Path, help="start from what --save wrote")
    parser.add_argument("--save", type=Path, help="file for the weights, to --resume from")
    parser.add_argument("--out", type=Path, help="model folder for the weights' files")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    options = build_parser().parse_args(argv)
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = True
    # cuDNN's attention prepares itself for every shape, and they differ from batch to batch.
    torch.backends.cuda.enable_cudnn_sdp(False)
    model = build(options.model)
    if options.resume:
        weights = torch.load(options.resume, map_location="cpu", weights_only=True)
        model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    model.to(device).train()
    train(model, options, device)
    state = model.state_dict()
    if options.save:
        torch.save({name: t.to(torch.bfloat16) for name, t in state.items()}, options.save)
    if options.out:
        for name, content in weight_files(state).items():
            (options.out / name).write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
