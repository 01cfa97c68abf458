"""Chutes, self-hosted: write a GPU inference service as decorated Python, and run it on your own machines."""
