"""One frozen value with everything that a deployment needs; a pure function makes it."""
