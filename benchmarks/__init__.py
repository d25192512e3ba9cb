"""Programs that measure accuracy, speed, and all that needs a GPU; pages.py fills docs from their records."""
