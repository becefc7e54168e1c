"""The player: a page to watch the server's samples on as they denoise."""
