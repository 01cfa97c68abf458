"""Small things that authors' code imports from here.

Upstream's `chutes.util.auth` (signing requests to its platform) and `chutes.util.hf` (comparing a cache with its
platform's list) have no meaning on one's own machines and don't exist.
"""
