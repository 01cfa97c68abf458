"""All hostile inputs, in the order of sending."""

from benchmarks.hostile.attack import Row
from benchmarks.hostile.rows import bodies, clients, forms, heads, origins, values

ROWS: list[Row] = [*bodies.ROWS, *values.ROWS, *forms.ROWS, *heads.ROWS, *clients.ROWS, *origins.ROWS]
