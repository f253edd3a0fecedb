"""The launcher of the appliance: from a Linux host to a served, verified omni model."""
