"""Names of ready-made images."""
