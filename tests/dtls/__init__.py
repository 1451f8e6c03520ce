"""Tests of the DTLS client."""

from hypothesis import HealthCheck, settings

# A timing never decides a test: on a busy machine any example may take long, and nothing is wrong with it.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")
