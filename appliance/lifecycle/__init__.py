"""The life of one appliance: up, status, down. Its state is read, never remembered."""
