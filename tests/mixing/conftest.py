"""Properties are checked without a time limit an example: a shared machine may pause at any of them."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
