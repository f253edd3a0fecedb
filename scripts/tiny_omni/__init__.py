"""How tiny-omni is taught: the media and questions, their encoding, the model, the files."""
