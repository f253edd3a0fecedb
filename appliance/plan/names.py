"""Names that a container carries, and paths inside it, which several rooms must agree on."""

from __future__ import annotations

import re

LABEL_NAME = "appliance.name"
LABEL_HASH = "appliance.plan-hash"
LABEL_SPEC = "appliance.plan"
# In place of the plan, where a file is for many hosts: the dies, with commas.
LABEL_DEVICES = "appliance.devices"

# Inside the container.
API_PORT = 8000
MODELS_DIR = "/models"
CACHE_DIR = "/var/cache/appliance"
# On the tmpfs, and nobody else's.
WORK_DIR = "/tmp/work"  # noqa: S108
# As platforms.yaml tells CANN.
CANN_LOG = f"{CACHE_DIR}/ascend/log"
API_KEY_FILE = "/run/secrets/appliance-api-key"
# Asks for the key on every path, which vLLM alone does not.
KEY_MIDDLEWARE = "appliance.inside.auth.RequireKey"
# Refuses the requests that would bring the server down.
GUARD_MIDDLEWARE = "appliance.inside.guard.Guard"
# Bytes of a request's headers, all together.
MAX_HEADERS = 65536
# Reads the API key's file and becomes a program.
START_COMMAND = ("python3", "-m", "appliance.inside")
# The same for what serves: starts it, and ends when it hangs.
SERVE_COMMAND = ("python3", "-m", "appliance.supervisor", "vllm", "serve")
# What the supervisor remembers from start to start, and what it found last.
SUPERVISOR_DIR = f"{CACHE_DIR}/supervisor"
PROGRESS_FILE = "/tmp/appliance-progress.json"  # noqa: S108
# A die of the host. The managers' nodes begin in the same way.
NPU_NODE = re.compile(r"^/dev/davinci(\d+)$")
# Read by Ascend Docker Runtime, on the host: the numbers N of the dies that it is to give.
VISIBLE = "ASCEND_VISIBLE_DEVICES"
