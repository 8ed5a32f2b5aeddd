"""An OTLP receiver as a process of its own: OpenTelemetry's own service definitions, by gRPC and by HTTP.

`python otlp_receiver.py` prints `{"http": port, "grpc": port}` once it listens. `GET /received` answers what came:
`{"spans": [...], "metrics": [...]}`, plain JSON with attributes as objects.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
from aiohttp import web
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc

_KINDS = ["unspecified", "internal", "server", "client", "producer", "consumer"]
received: dict[str, list[dict[str, Any]]] = {"spans": [], "metrics": []}


def _value(value: Any) -> Any:
    which = value.WhichOneof("value")
    if which == "array_value":
        return [_value(v) for v in value.array_value.values]
    return getattr(value, which) if which else None


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def take_spans(request: Any, by: str) -> None:
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                received["spans"].append(
                    {
                        "by": by,
                        "name": span.name,
                        "kind": _KINDS[span.kind],
                        "trace": span.trace_id.hex(),
                        "id": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "state": span.trace_state,
                        "start": span.start_time_unix_nano,
                        "end": span.end_time_unix_nano,
                        "error": span.status.code == 2,
                        "attributes": _attributes(span.attributes),
                        "resource": _attributes(resource.resource.attributes),
                    }
                )


def take_metrics(request: Any, by: str) -> None:
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                kind = metric.WhichOneof("data")
                for point in getattr(metric, kind).data_points:
                    told = {"by": by, "name": metric.name, "unit": metric.unit, "kind": kind}
                    count = point.sum if kind == "histogram" else point.as_int or point.as_double
                    told |= {"sum": count, "attributes": _attributes(point.attributes)}
                    received["metrics"].append(told)


class _Traces(trace_grpc.TraceServiceServicer):  # type: ignore[misc]
    async def Export(self, request: Any, context: Any) -> Any:
        take_spans(request, "grpc")
        return trace_pb.ExportTraceServiceResponse()


class _Metrics(metrics_grpc.MetricsServiceServicer):  # type: ignore[misc]
    async def Export(self, request: Any, context: Any) -> Any:
        take_metrics(request, "grpc")
        return metrics_pb.ExportMetricsServiceResponse()


async def _traces(request: web.Request) -> web.Response:
    take_spans(trace_pb.ExportTraceServiceRequest.FromString(await request.read()), "http")
    answer = trace_pb.ExportTraceServiceResponse().SerializeToString()
    return web.Response(body=answer, content_type="application/x-protobuf")


async def _metrics(request: web.Request) -> web.Response:
    take_metrics(metrics_pb.ExportMetricsServiceRequest.FromString(await request.read()), "http")
    answer = metrics_pb.ExportMetricsServiceResponse().SerializeToString()
    return web.Response(body=answer, content_type="application/x-protobuf")


async def _received(request: web.Request) -> web.Response:
    return web.json_response(received)


async def main() -> None:
    server = grpc.aio.server()
    trace_grpc.add_TraceServiceServicer_to_server(_Traces(), server)
    metrics_grpc.add_MetricsServiceServicer_to_server(_Metrics(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    app = web.Application(client_max_size=1 << 26)
    app.add_routes([web.post("/v1/traces", _traces), web.post("/v1/metrics", _metrics)])
    app.add_routes([web.get("/received", _received)])
    runner = web.AppRunner(app)
    await runner.setup()
    await (site := web.TCPSite(runner, "127.0.0.1", 0)).start()
    assert site._server is not None
    http = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    print(json.dumps({"http": http, "grpc": port}), flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
