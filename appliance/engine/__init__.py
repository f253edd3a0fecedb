"""The container engine: the only room with effects on images and containers."""
