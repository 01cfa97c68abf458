"""Names of prebuilt images."""
