"""Every error that the appliance reports: a stable id, an exit code of its own, a remedy.

The table `ERRORS` is the single source: the README's error table is checked against it, and
raising an id that is not in it fails. Exit codes 64 to 113 are free of meanings given by
shells; they never change once released.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ErrorKind:
    """What is fixed about an error: its exit code, what it means, what to do in general."""

    exit_code: int
    meaning: str
    remedy: str


ERRORS: dict[str, ErrorKind] = {
    "usage": ErrorKind(2, "The command line was not understood.", "See `appliance --help`."),
    "config-invalid": ErrorKind(
        64,
        "A value in appliance.yaml, in APPLIANCE_* or in a flag is not valid.",
        "Correct the key that the message names; `appliance config schema` lists them all.",
    ),
    "config-unknown-key": ErrorKind(
        65,
        "A key is not one that the appliance knows.",
        "Correct its spelling; the nearest known key is in the message.",
    ),
    "public-without-key": ErrorKind(
        66,
        "The API would be reachable from other machines with no API key.",
        "Set `server.api_key_file`, or bind to 127.0.0.1.",
    ),
    "api-key-file": ErrorKind(
        67,
        "The API key file is absent, empty, or readable by everybody.",
        "Make it with: (umask 077; openssl rand -hex 32 > FILE).",
    ),
    "host-unsupported": ErrorKind(
        68,
        "No plan can be made for this host.",
        "Set `platform` and `product` to what the host is, or use a supported host.",
    ),
    "devices-missing": ErrorKind(
        69,
        "Device nodes or driver files that the plan needs are not on the host.",
        "Install the Ascend driver, or name other NPUs with `npus`.",
    ),
    "npus-unavailable": ErrorKind(
        100,
        "The NPUs that are needed are unhealthy, in use, or another appliance's.",
        "Free them, or name others with `npus`; the message has a reason for each.",
    ),
    "memory-insufficient": ErrorKind(
        91,
        "The model does not fit into the NPUs' memory as configured.",
        "Use the setting that the message names, or NPUs with more memory.",
    ),
    "engine-missing": ErrorKind(
        70,
        "Docker, its compose plugin or its buildx plugin is not installed.",
        "Install what the message names; `make up` does it on Debian and Ubuntu as root.",
    ),
    "engine-unreachable": ErrorKind(
        71,
        "The Docker engine does not answer.",
        "Start it (systemctl start docker) and see that you may use its socket.",
    ),
    "image-unavailable": ErrorKind(
        72,
        "The image could not be pulled from any registry.",
        "Check the network or the proxy, name a mirror in `image.mirrors`, or load it by hand.",
    ),
    "image-build-failed": ErrorKind(
        73,
        "Building the image failed.",
        "Read the builder's last lines above; behind a company proxy set `build.ca_bundle`.",
    ),
    "weights-missing": ErrorKind(
        74,
        "The model folder is absent or is not a model.",
        "Correct `model.path`, or name a hub id in `model.id`.",
    ),
    "weights-incomplete": ErrorKind(
        75,
        "The model folder lacks files that its index names, or a shard is cut short.",
        "Run `appliance weights fetch` again: it resumes; or copy the files named.",
    ),
    "weights-unreadable": ErrorKind(
        90,
        "The container could not read the model folder: its root has no capabilities.",
        "Let everybody read the weights: chmod -R o+rX FOLDER.",
    ),
    "weights-fetch-failed": ErrorKind(
        76,
        "The weights could not be fetched from ModelScope.",
        "Check the model's id, the network and the proxy; a second try resumes.",
    ),
    "disk-full": ErrorKind(
        77,
        "There is not enough space left on a disk that the appliance writes to.",
        "Free space there, or move it: `cache.dir` for weights, Docker's data-root for images.",
    ),
    "port-in-use": ErrorKind(
        78,
        "Another program holds the API port.",
        "Stop that program, or choose another `server.port`.",
    ),
    "busy": ErrorKind(
        79,
        "Another `appliance` command is changing this appliance.",
        "Wait for it to end; `appliance status` shows what it reached.",
    ),
    "container-died": ErrorKind(
        80,
        "The container ended while the engine was loading.",
        "Act on the engine's error line in the message; `appliance diagnose` tells more.",
    ),
    "not-ready": ErrorKind(
        81,
        "The server did not become ready in time.",
        "See `appliance logs`; raise `timeouts.ready` if it was still loading.",
    ),
    "smoke-failed": ErrorKind(
        82,
        "The server is up, but a smoke probe failed.",
        "Read the response in the probe's line; `appliance smoke` runs them again.",
    ),
    "container-start-failed": ErrorKind(
        83,
        "The engine refused to make or start the container.",
        "Act on the engine's message.",
    ),
    "not-running": ErrorKind(
        84,
        "There is no running appliance of this name.",
        "Start it with `appliance up`.",
    ),
    "snapshot-invalid": ErrorKind(
        85,
        "A host snapshot folder can't be read.",
        "See the table of its files in the README.",
    ),
    "not-a-checkout": ErrorKind(
        86,
        "Building an image needs the project's checkout, and this launcher is installed alone.",
        "Run it from a clone, or pull the image and name it in `image.name`.",
    ),
    "file-differs": ErrorKind(
        87,
        "The file to be written exists and differs.",
        "Look at the difference; write it with `--force`, or to another place.",
    ),
    "engine-failed": ErrorKind(
        88,
        "The Docker engine answered a request with an error.",
        "Act on its message; `docker info` shows the state of the engine.",
    ),
    "file-not-written": ErrorKind(
        89,
        "A file that was asked for, or that the appliance keeps, can't be read or written.",
        "Act on the system's reason in the message, or choose another place.",
    ),
    "doctor-failed": ErrorKind(
        92,
        "A check of the host failed; nothing was changed.",
        "Do what stands after each `next:`; `appliance doctor` checks again. What is known to be "
        "harmless goes into `doctor.skip`.",
    ),
    "image-digest-differs": ErrorKind(
        93,
        "What an image's name stands for is not the same everywhere.",
        "Find out which is right; leave a wrong mirror out of `image.mirrors`, pull a stale image "
        "anew; then `appliance images lock`.",
    ),
    "result-invalid": ErrorKind(
        94,
        "A file is not a result of `bench` or `eval`, or one that this version can't read.",
        "Name a result.json that `appliance bench` or `appliance eval` wrote.",
    ),
    "job-failed": ErrorKind(
        95,
        "A container that was started for one piece of work ended with an error.",
        "Read the lines above; what was finished by then is kept, and the same command goes on "
        "from there.",
    ),
    "input-invalid": ErrorKind(
        96,
        "The input of a command is absent, empty or not in the form that it reads.",
        "Correct what the message names; nothing was started.",
    ),
    "partly-failed": ErrorKind(
        97,
        "The work was done, but part of it could not be.",
        "Each part that failed says why in the results; the same command tries only those again.",
    ),
    "dataset-missing": ErrorKind(
        98,
        "A dataset is neither in the folder that was named nor to be had from its hub.",
        "Put the dataset into the folder that `--dataset-dir` names, in the form that the "
        "message gives.",
    ),
    "engine-hung": ErrorKind(
        101,
        "The engine ran and made no progress; the container ended for the restart policy to act.",
        "`appliance diagnose` reads the log; with `--bundle` it packs the evidence too.",
    ),
    "engine-died": ErrorKind(
        102,
        "The engine, or one of its processes, ended by itself while it was to serve.",
        "`appliance diagnose` names the first error in the log.",
    ),
    "interrupted": ErrorKind(
        130,
        "Interrupted by Ctrl-C.",
        "`appliance status` shows what was reached; `appliance up` goes on from there.",
    ),
    "bug": ErrorKind(
        99,
        "The appliance itself failed in a way that it does not know.",
        "Please report it with the traceback that APPLIANCE_DEBUG=1 shows.",
    ),
}


class ApplianceError(Exception):
    """An error for people: what happened, why, and what to do next.

    `id` is a key of `ERRORS`. `remedy` replaces the general remedy where more is known.
    """

    def __init__(self, id: str, message: str, remedy: str | None = None) -> None:  # noqa: A002
        super().__init__(message)
        self.kind = ERRORS[id]
        self.id = id
        self.message = message
        self.remedy = remedy or self.kind.remedy

    @property
    def exit_code(self) -> int:
        """The process exit code that belongs to this error's id."""
        return self.kind.exit_code

    def as_dict(self) -> dict[str, object]:
        """Return the error as `--json` prints it."""
        return {
            "error": {
                "id": self.id,
                "exit_code": self.exit_code,
                "message": self.message,
                "remedy": self.remedy,
            }
        }
