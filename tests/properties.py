"""How the property tests draw: the same examples every time, no clock, nothing written.

Shapes are fixed, since each compiles; values are drawn.
"""

from hypothesis import HealthCheck, settings

drawn = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
