"""The version of the appliance; the image's tag and labels carry it."""

__version__ = "0.1.0"
