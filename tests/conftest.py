"""What holds for every test."""

from hypothesis import settings

settings.register_profile("dpone", deadline=None)  # a slow machine is no failure
settings.load_profile("dpone")
