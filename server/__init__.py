"""The HTTP server: `python -m server`. It stands on `token_diffusion`; nothing imports it."""
