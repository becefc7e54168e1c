"""Wrappers of plain ASGI: they see messages pass, and neither buffer a stream nor hide that its client left."""
