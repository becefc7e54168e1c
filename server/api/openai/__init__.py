"""The endpoints in OpenAI's shapes, for the clients that people have already."""
