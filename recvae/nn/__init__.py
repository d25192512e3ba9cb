"""Networks and their parts; the imports are torch, numpy and scipy, and nothing here reads a file."""
