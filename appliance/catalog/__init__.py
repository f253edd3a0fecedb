"""What is known about products, releases, models and platforms: data, with its sources."""
