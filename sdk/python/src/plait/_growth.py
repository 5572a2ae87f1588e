"""Exponential growth in whole numbers, as backoffs and open times have it."""


def grow(start: int, factor_permille: int, steps: int, cap: int) -> int:
    """`start` multiplied by a factor `steps` times, floored and capped at each step."""
    value = min(start, cap)
    for _ in range(steps):
        if value >= cap:
            break
        value = min(value * factor_permille // 1000, cap)
    return value
