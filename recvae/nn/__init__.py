"""Networks and what they are made of: torch, numpy and scipy only, nothing of files or command lines."""
