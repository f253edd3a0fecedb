"""Model folders on the host: whether they are complete, and how they are fetched."""
