"""Helpers that authors' code imports.

Upstream's `chutes.util.auth` and `chutes.util.hf` are not here: they sign requests to its platform, and compare a cache
with the platform's list.
"""
