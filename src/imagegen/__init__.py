"""Diffusion as a service's other half: requests in, pictures out. Knows nothing of HTTP.

`http.schemas` are the request bodies, `image_file` writes files, `models` loads,
`engine` draws. Nothing heavy is imported here.
"""

from importlib.metadata import version

SOFTWARE = f"chutes-selfhosted {version('chutes-selfhosted')}"
"""What is written into every picture as its maker."""
