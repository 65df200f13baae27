"""The server's routes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

import hyperloader
from hyperloader.serving.guard import Guard
from hyperloader.serving.page import page
from hyperloader.serving.receiving import body_of
from hyperloader.serving.refusals import Refusal, internal
from hyperloader.serving.requests import PredictRequest, ReloadRequest, parsed
from hyperloader.serving.service import Service
from hyperloader.validation import listed


def make_app(service: Service) -> Guard:
    """The application of a server."""
    registry, settings = service.registry, service.settings

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.pipeline.start()
        yield
        await asyncio.get_running_loop().run_in_executor(None, service.pipeline.close)

    options: dict[str, Any] = {"docs_url": None, "redoc_url": None}  # they load scripts from elsewhere
    app = FastAPI(title="hyperloader", version=hyperloader.__version__, lifespan=lifespan, **options)

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> Response:
        return refusal.response()

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        return Refusal(error.status_code, "http", str(error.detail), headers=dict(error.headers or {})).response()

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return internal().response()  # and ``Guard`` logs it

    @app.post("/v1/predict", openapi_extra=_body(PredictRequest), responses=_REFUSALS)
    async def predict(request: Request) -> Response:
        """Answers to inputs, in their order: `{"answers": [...]}`, of several tasks those of each input together."""
        return await service.predict(request)

    @app.post("/v1/reload", openapi_extra=_body(ReloadRequest, required=False), responses=_REFUSALS)
    async def reload(request: Request) -> JSONResponse:
        """Load new versions of runs from their folders: `{"versions": {run: number}}`."""
        body = await body_of(request, settings.max_body_bytes, settings.body_timeout_s)
        run, runs = parsed(ReloadRequest, body).run, list(registry.runs)
        if run is not None and run not in runs:
            raise Refusal(422, "invalid", f"run must be one of {listed(runs, 'runs')}", field="run")
        return JSONResponse({"versions": await service.reload(runs if run is None else [run])})

    @app.get("/v1/tasks")
    async def tasks() -> JSONResponse:
        """The tasks, with run, version, kind and labels of each."""
        return JSONResponse({"tasks": service.tasks()})

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        """Whether the process works."""
        if not service.pipeline.alive:
            raise internal()
        return JSONResponse({"status": "ok"})

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """Whether there is room for requests, and the process is not going to end."""
        if service.draining:
            raise Refusal(503, "draining", "the server is going to end")
        if service.waiting >= settings.max_queue:
            raise Refusal(503, "busy", "the queue is full")
        return JSONResponse({"status": "ready"})

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters and histograms in Prometheus's format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return page()

    return Guard(app, settings, service.metrics)


_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": text}
    for status, text in (
        (401, "No API key, or a wrong one."), (413, "The body, or what it asks, is too large."),
        (422, "Something in the body is wrong; `error.field` names it."), (429, "The queue is full; see Retry-After."),
        (504, "No answer in time."),
    )
}  # fmt: skip


def _body(model: Any, required: bool = True) -> dict[str, Any]:
    schema = model.model_json_schema()
    if "$defs" in schema:  # references to the root of a document that this is only part of
        schema["properties"]["inputs"]["items"] = schema.pop("$defs")["InputObject"]
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}
