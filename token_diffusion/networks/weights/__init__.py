"""Where weights lie, on a disk or a hub, and how they are read: whole or not at all."""
