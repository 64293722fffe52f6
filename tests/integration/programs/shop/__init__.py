"""A small application on Django."""
