"""Version of the software, kept apart so that nothing heavy is imported to know it."""

__version__ = "0.1.0"
