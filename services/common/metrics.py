"""Prometheus metrics of every service: how many calls, how they ended, how long they took."""

from prometheus_client import Counter, Gauge, Histogram, start_http_server

CALLS = Counter("weighbridge_calls", "Calls that ended.", ["method", "code"])
DURATION = Histogram(
    "weighbridge_call_duration_seconds",
    "Time from a call's arrival to its end.",
    ["method"],
    # From a node's answer from memory to the watch of a long run.
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120, 600),
)
IN_FLIGHT = Gauge("weighbridge_calls_in_flight", "Calls that have arrived and not ended.", ["method"])


def serve(host: str, port: int) -> None:
    """Answer scrapes at `http://host:port/metrics`, from a thread. Port 0: do not."""
    if port:
        start_http_server(port, addr=host)
