"""What runs inside the container: the standard library, and the image's own vLLM where needed."""
