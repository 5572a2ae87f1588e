"""Metrics of a process, as Prometheus reads them."""

import asyncio
import re
import urllib.request
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Metrics:
    """One scrape."""

    samples: dict[str, list[tuple[dict[str, str], float]]]
    families: frozenset[str]
    """As they are called in the text: counters with `_total`."""

    def value(self, name: str, **labels: str) -> float:
        """The sample with these labels and no others. Raises KeyError."""
        for found, value in self.samples.get(name, []):
            if found == labels:
                return value
        raise KeyError(f"{name} {labels}: {self.samples.get(name)}")

    def total(self, name: str, **labels: str) -> float:
        """All samples together that have these labels."""
        wanted = labels.items()
        return sum(value for found, value in self.samples.get(name, []) if wanted <= found.items())


async def scrape(address: str) -> Metrics:
    """What a process tells at this address. Raises OSError, and ValueError for what is no text of
    Prometheus."""
    text = await asyncio.to_thread(_read, f"http://{address}/metrics")
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    families = re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE)
    return Metrics(samples, frozenset(families))


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        text: str = answer.read().decode()
    return text
