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
# Reads the API key's file and becomes the engine.
START_COMMAND = ("python3", "-m", "appliance.inside")
# A die of the host. The managers' nodes begin in the same way.
NPU_NODE = re.compile(r"^/dev/davinci(\d+)$")
# Read by Ascend Docker Runtime, on the host: the numbers N of the dies that it is to give.
VISIBLE = "ASCEND_VISIBLE_DEVICES"
