"""The names of prebuilt images."""
