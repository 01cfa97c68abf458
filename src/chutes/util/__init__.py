"""Helpers that authors' code imports.

The `chutes.util.auth` and `chutes.util.hf` of the hosted platform's SDK are not here. They sign requests to the
platform, and compare a cache with the platform's list.
"""
