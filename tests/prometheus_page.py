"""Reads a metrics page with `prometheus_client`'s parser."""

from prometheus_client.parser import text_string_to_metric_families


def series(page: str | bytes, name: str) -> dict[frozenset[tuple[str, str]], float]:
    """Returns the series of this name, by their labels."""
    text = page.decode() if isinstance(page, bytes) else page
    return {
        frozenset(sample.labels.items()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def value(page: str | bytes, name: str, **labels: str) -> float:
    """Returns the value of one series; raises `KeyError` without a series of exactly these labels."""
    return series(page, name)[frozenset(labels.items())]
