"""The page /docs, which shows openapi.json to people."""
