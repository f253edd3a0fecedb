"""What runs inside the container, with the standard library alone."""
