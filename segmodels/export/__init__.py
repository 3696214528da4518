"""Models for use without this library."""
