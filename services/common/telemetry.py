"""OpenTelemetry traces, where an OTLP endpoint is set.

Where none is set, nothing of OpenTelemetry is imported and these functions do nothing.
"""

import contextvars
from collections.abc import Iterable
from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

_tracer: Optional["Tracer"] = None
# OpenTelemetry's own current span must be left where it was entered, which a cancelled call does not do.
_span: contextvars.ContextVar[Optional["Span"]] = contextvars.ContextVar("span", default=None)


def configure(service: str, endpoint: str) -> None:
    """Send this process's traces to `endpoint` (`http://host:4317`) from now on. Empty: do not."""
    global _tracer
    if not endpoint:
        return
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    _tracer = provider.get_tracer("weighbridge")


def start_call(method: str, metadata: Iterable[tuple[str, str | bytes]]) -> None:
    """Begin the span of a call, as a child of the caller's where the metadata names one."""
    if _tracer is None:
        return
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {key: value for key, value in metadata if isinstance(value, str)}
    parent = TraceContextTextMapPropagator().extract(carrier)
    service, _, name = method.removeprefix("/").partition("/")
    attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name}
    _span.set(
        _tracer.start_span(
            method.removeprefix("/"), context=parent, kind=SpanKind.SERVER, attributes=attributes
        )
    )


def end_call(code: str) -> None:
    """End the span of the call being served."""
    span = _span.get()
    if span is None:
        return
    from opentelemetry.trace import StatusCode

    span.set_attribute("rpc.grpc.status_code", code)
    if code in ("INTERNAL", "UNKNOWN", "UNAVAILABLE", "DATA_LOSS", "DEADLINE_EXCEEDED", "UNIMPLEMENTED"):
        span.set_status(StatusCode.ERROR)
    span.end()


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """Return the metadata by which the call being served becomes the parent of one that it makes."""
    span = _span.get()
    if span is None:
        return ()
    # Written by hand (W3C trace context): OpenTelemetry's injector reads its own current span, which is not
    # set.
    context = span.get_span_context()
    return (("traceparent", f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"),)


def current_trace_id() -> str:
    """Return the trace of the call being served, in hexadecimal digits. Empty where there is none."""
    span = _span.get()
    return "" if span is None else f"{span.get_span_context().trace_id:032x}"
