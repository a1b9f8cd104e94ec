"""OpenTelemetry set-up. The exporter is off by default; spans then cost next to nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from opentelemetry import trace

from cloudless import __version__
from cloudless.config import TracingConfig
from cloudless.errors import FailedPrecondition


def configure(config: TracingConfig, service: str) -> Callable[[], None]:
    """Sends spans to `otlp_endpoint` where one is set; else to the provider that the process has already, if it has
    one. The result flushes and stops the exporter.

    Raises FailedPrecondition when an endpoint is set and the `tracing` extra is not installed.
    """
    global _on
    if not config.otlp_endpoint:
        _on = not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
        return lambda: None
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
    except ImportError:
        raise FailedPrecondition(
            "tracing.otlp_endpoint is set, but the OpenTelemetry SDK is not installed",
            reason="TracingUnavailable",
            remedy="install cloudless[tracing]",
        ) from None
    provider = TracerProvider(
        resource=Resource.create({"service.name": service, "service.version": __version__}),
        sampler=ParentBasedTraceIdRatio(config.sample_ratio),
    )
    exporter = OTLPSpanExporter(endpoint=config.otlp_endpoint, insecure=config.otlp_endpoint.startswith("http://"))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    _on = True
    return provider.shutdown


_on = False
_NOTHING = nullcontext(trace.INVALID_SPAN)


def on() -> bool:
    """Whether spans go anywhere, as of `configure`: the library looks into the environment each time it is asked."""
    return _on


def span(tracer: trace.Tracer, name: str) -> AbstractContextManager[trace.Span]:
    """`tracer.start_as_current_span(name)`; without an exporter a span that is nothing, for a twentieth of the cost."""
    if not _on:
        return _NOTHING
    return tracer.start_as_current_span(name)
