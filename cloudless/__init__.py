"""Cloudless: one elastic compute fabric from the devices that you already own."""

__version__ = "0.1.0"
