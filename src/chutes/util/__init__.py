"""Helpers for authors' code.

`chutes.util.auth` of the hosted platform's SDK is missing: it signs requests to the platform.
"""
