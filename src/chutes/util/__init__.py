"""Helpers for authors' code.

`chutes.util.auth` and `chutes.util.hf` of the hosted platform's SDK are missing, because they need the platform: they
sign requests to it, and compare a model cache with its list.
"""
