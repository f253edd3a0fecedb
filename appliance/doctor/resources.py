"""Checks of what the host has: room on its disks, memory, the image, the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.catalog import load as catalog
from appliance.catalog.needs import Space, needs
from appliance.doctor.model import (
    Finding,
    failed,
    missing,
    of_problem,
    ok,
    skipped,
    unknown,
    warning,
)
from appliance.inventory.facts import DiskFacts, KernelFacts, Missing

if TYPE_CHECKING:
    from appliance.doctor.model import Subject
    from appliance.plan.model import Plan

GIB = 1024**3
_NO_PLAN = "there is no plan to check it against"
_FREE = "Free space there (docker system prune), or move Docker's data-root to a larger disk."
_MOVE = "Free space there, or set `cache.dir` to a folder on a larger disk."
_UNREADABLE = "weights-unreadable"
# What `appliance.catalog.needs` counts in the CPU's memory already.
_MEASURED_KV_GIB = 1
_KV_SPACE = "VLLM_CPU_KVCACHE_SPACE"
# jemalloc is built for one size of pages; most builds, for this one.
_USUAL_PAGE = 4096


def _gib(count: float) -> str:
    return f"{count / GIB:.1f} GiB"


def image(subject: Subject) -> Finding:
    """Tell whether the image is here, and how it will be come by."""
    found, plan = subject.facts.image, subject.made
    if isinstance(found, Missing):
        return missing(found)
    if plan is None:
        return unknown(_NO_PLAN)
    name = plan.image.reference
    if not (found.here or found.buildable or plan.image.base is None):
        return failed(
            f"The image {name} is not here, and this launcher, installed alone, can't build it.",
            "Run it from a clone, or pull or load an image and name it in `image.name`.",
            "not-a-checkout",
        )
    if found.here:
        return ok(f"{name} is here")
    if plan.image.base is None:
        return ok(f"{name} is not here: it is pulled")
    base = f"{found.base}, which is here" if found.base else "a base that is pulled or made first"
    return ok(f"{name} is built, on {base}")


def image_space(subject: Subject) -> Space | None:
    """Return the room that coming by the image takes; `None` where it takes none."""
    found = subject.facts.image
    if isinstance(found, Missing):
        return needs().image[subject.platform or "cpu"]
    if found.here:
        return None
    return needs().layer if found.base else needs().image[subject.platform or "cpu"]


def disk_image(subject: Subject) -> Finding:
    """Compare the room on the engine's disk with what the image takes."""
    disk, space = subject.facts.disks.get("image", Missing("not read")), image_space(subject)
    if space is None:
        return ok("the image is here: it takes no more room")
    if isinstance(disk, Missing):
        return missing(disk)
    text = f"{_gib(disk.free)} are free in {disk.folder}"
    if disk.free >= space.gib * GIB:
        return ok(f"{text}; the image takes up to {space.gib} GiB")
    said = f"Coming by the image needs {space.gib} GiB; {text}."
    if isinstance(subject.facts.image, Missing):
        return warning(f"{said} Whether it is there already is not known.", _FREE)
    return failed(said, _FREE, "disk-full")


def weights_left(subject: Subject) -> float | None:
    """Return the bytes of weights that are still to be fetched; `None` where not known."""
    found, plan = subject.facts.weights, subject.made
    if plan is None:
        return None
    if not isinstance(found, Missing) and found.complete:
        return 0
    known = catalog.models().get(plan.model.id)
    if known is None or known.weights_gib is None:
        return None
    here = 0 if isinstance(found, Missing) else found.bytes
    return max(0.0, known.weights_gib * GIB - here)


def disk_weights(subject: Subject) -> Finding:
    """Compare the room for weights with what is still to be fetched."""
    facts, plan = subject.facts, subject.made
    if plan is None:
        return unknown(_NO_PLAN)
    if plan.model.source != "hub":
        return skipped(f"{plan.model.host_path} is used where it is")
    left, disk = weights_left(subject), facts.disks.get("weights", Missing("not read"))
    if left == 0:
        return ok("the weights are here: they take no more room")
    if isinstance(disk, Missing):
        return missing(disk)
    if left is None:
        text = f"{_gib(disk.free)} are free in {disk.folder}"
        return unknown(f"{text}; how large {plan.model.id} is is not known")
    return _room(subject, disk, left)


def _room(subject: Subject, disk: DiskFacts, left: float) -> Finding:
    """Compare a disk's room with weights of so many bytes, and what else will go there."""
    other, space = subject.facts.disks.get("image"), image_space(subject)
    wanted, words = left, f"{_gib(left)} of weights are to be fetched"
    if space and isinstance(other, DiskFacts) and other.device == disk.device:
        wanted += space.gib * GIB
        words += f", and up to {space.gib} GiB for the image go to the same disk"
    text = f"{_gib(disk.free)} are free in {disk.folder}; {words}"
    if disk.free >= wanted:
        return ok(text)
    if isinstance(subject.facts.weights, Missing):
        return warning(f"{text}, unless they are there already.", _MOVE)
    return failed(f"{text}.", _MOVE, "disk-full")


def inodes(subject: Subject) -> Finding:
    """Compare the files that the engine's disk can still take with those of the image."""
    disk, space = subject.facts.disks.get("image", Missing("not read")), image_space(subject)
    if isinstance(disk, Missing):
        return missing(disk)
    if disk.inodes is None:
        return missing(Missing(subject.facts.unsaid))
    if disk.inodes == 0:
        return ok(f"the file system of {disk.folder} does not count them")
    text = f"{disk.inodes_free} of {disk.inodes} are free in {disk.folder}"
    if space and disk.inodes_free < space.inodes:
        return failed(
            f"The image has up to {space.inodes} files; only {text}: the disk is full of small "
            "files before it is full.",
            _FREE,
            "disk-full",
        )
    return ok(text)


def cache_writable(subject: Subject) -> Finding:
    """Tell whether this user may write where weights are to be fetched to."""
    plan, found = subject.made, subject.facts.weights
    if plan is None:
        return unknown(_NO_PLAN)
    if plan.model.source != "hub" or (not isinstance(found, Missing) and found.complete):
        return skipped("nothing has to be fetched")
    disk = subject.facts.disks.get("weights", Missing("not read"))
    if isinstance(disk, Missing) or disk.writable is None:
        return missing(disk if isinstance(disk, Missing) else Missing(subject.facts.unsaid))
    if not disk.writable:
        return failed(
            f"{plan.model.host_path} can't be made: {disk.folder} is not for this user to write.",
            "Give the folder to the user who runs this (chown), or set `cache.dir` to another.",
            "weights-fetch-failed",
        )
    return ok(f"{disk.folder} can be written")


def weights(subject: Subject) -> Finding:
    """Tell whether the weights are complete, and readable for the container."""
    found, plan = subject.facts.weights, subject.made
    if isinstance(found, Missing):
        return missing(found)
    if plan is None:
        return unknown(_NO_PLAN)
    size = f"{plan.model.host_path}: {found.bytes / 1e9:.2f} GB"
    if found.problem is None:
        return ok(f"{size}, complete")
    if plan.model.source == "hub" and found.problem.id != _UNREADABLE:
        return ok(f"{size} so far; the rest is fetched")
    return of_problem(found.problem)


def _memory_need(plan: Plan) -> int:
    """Return the memory in bytes that the server takes of the host."""
    need = needs().memory[plan.platform]
    ranks = plan.tensor_parallel_size * plan.data_parallel_size
    cache = dict(plan.container.environment).get(_KV_SPACE, "")
    more = int(cache) - _MEASURED_KV_GIB if plan.platform == "cpu" and cache.isdigit() else 0
    return (need.base + need.rank * ranks + max(0, more)) * GIB


def memory(subject: Subject) -> Finding:
    """Compare the host's memory, and the container's limit, with what the server takes."""
    kernel, plan = subject.facts.kernel, subject.made
    total = subject.host.system.memory_gib if subject.host else None
    has = total * GIB if total else None
    if isinstance(kernel, KernelFacts):
        has = kernel.memory_total or has
    if plan is None or has is None:
        return unknown(_NO_PLAN if plan is None else "how much memory the host has is not known")
    need, limit = _memory_need(plan), plan.container.memory_bytes
    short = failed if needs().memory[plan.platform].measured else warning
    if limit is not None and limit < need:
        return short(
            f"`container.memory` is {_gib(limit)}; the server takes about {_gib(need)}: the kernel "
            "would kill it.",
            f"Set `container.memory` to {need // GIB}g or more, or leave it out.",
        )
    if has < need:
        return short(
            f"The host has {_gib(has)} of memory; the server takes about {_gib(need)}.",
            "Use a host with more memory, or a smaller model.",
        )
    return _memory_now(subject, need, has)


def _memory_now(subject: Subject, need: int, has: int) -> Finding:
    kernel, own = subject.facts.kernel, subject.facts.container
    text = f"{_gib(has)}; the server takes about {_gib(need)}"
    # What runs now is this appliance itself: it goes before the new one comes.
    mine = own is not None and not isinstance(own, Missing) and own.ours and own.status == "running"
    if isinstance(kernel, KernelFacts) and not mine and kernel.memory_available < need:
        return warning(
            f"{_gib(kernel.memory_available)} of {_gib(has)} of memory are available now; the "
            f"server takes about {_gib(need)}.",
            "See who uses the rest (`ps -eo rss,comm --sort=-rss | head`).",
        )
    size = weights_size(subject)
    if size is not None and size > has:
        text += f"; {_gib(size)} of weights do not fit beside: every start reads them from disk"
    return ok(text)


def weights_size(subject: Subject) -> float | None:
    """Return how large the model's weights are, in bytes, where that is known."""
    known = catalog.models().get(subject.made.model.id) if subject.made else None
    return known.weights_gib * GIB if known and known.weights_gib else None


def shm(subject: Subject) -> Finding:
    """Compare the container's /dev/shm with the memory that it is made of."""
    kernel, plan = subject.facts.kernel, subject.made
    if plan is None:
        return unknown(_NO_PLAN)
    size, limit = plan.container.shm_size_bytes, plan.container.memory_bytes
    if limit is not None and size >= limit:
        return failed(
            f"The container's /dev/shm is {_gib(size)}, and counts as its memory, of which it may "
            f"have {_gib(limit)}.",
            "Lower `container.shm_size`, or raise `container.memory`.",
        )
    text = f"the container has a /dev/shm of its own, {_gib(size)}"
    if isinstance(kernel, Missing):
        return ok(text)
    if size > kernel.memory_total / 2:
        return warning(
            f"The container's /dev/shm may grow to {_gib(size)}, of {_gib(kernel.memory_total)} of "
            "memory in all.",
            "Lower `container.shm_size`.",
        )
    theirs = f" ({_gib(kernel.shared_memory)})" if kernel.shared_memory is not None else ""
    return ok(f"{text}; the host's{theirs} plays no part")


def page_size(subject: Subject) -> Finding:
    """Look at the kernel's page size, which a preloaded jemalloc must be built for."""
    kernel, plan = subject.facts.kernel, subject.made
    if isinstance(kernel, Missing):
        return missing(kernel)
    size = f"{kernel.page_size // 1024} KiB"
    preload = dict(plan.container.environment).get("LD_PRELOAD", "") if plan else ""
    if kernel.page_size != _USUAL_PAGE and "jemalloc" in preload:
        return warning(
            f"The kernel's pages are {size}, and LD_PRELOAD names jemalloc: a build for other "
            'pages ends at once with "Unsupported system page size".',
            "Take LD_PRELOAD out of `container.environment`, or use a jemalloc of the image's "
            "own distribution.",
        )
    note = "preloaded: " + preload if preload else "no jemalloc is preloaded"
    return ok(f"{size}; {note}")
