"""MDLM's DiT and the formats that come of it, a file each; what they share is their layout."""
