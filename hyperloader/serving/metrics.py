"""What a server counts, for Prometheus."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from hyperloader.data.examples import Example

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384)


class Metrics:
    """Requests, inputs, the queue and batches of one server."""

    def __init__(self) -> None:
        self.registry = to = CollectorRegistry()
        ProcessCollector(registry=to)
        self._requests = Counter(
            "hyperloader_requests", "Requests by route and status.", ("route", "status"), registry=to
        )
        self._seconds = Histogram(
            "hyperloader_request_seconds", "From a request to its answer.", ("route",), buckets=_SECONDS, registry=to
        )
        self.inputs = Counter("hyperloader_inputs", "Inputs by task.", ("task",), registry=to)
        self.queue = Gauge("hyperloader_queue_inputs", "Inputs that wait or are computed.", registry=to)
        self.reloads = Counter("hyperloader_reloads", "New versions of runs.", ("result",), registry=to)
        self._batch = Histogram("hyperloader_batch_inputs", "Windows in a batch.", buckets=_COUNTS, registry=to)
        self._tasks = Histogram("hyperloader_batch_tasks", "Tasks in a batch.", buckets=_COUNTS, registry=to)
        self._tokens = Histogram("hyperloader_batch_tokens", "Tokens in a batch.", buckets=_TOKENS, registry=to)
        self._padding = Counter("hyperloader_padding_tokens", "Tokens of padding computed.", registry=to)
        self._computing = Histogram(
            "hyperloader_batch_seconds", "Time that the model takes for a batch.", buckets=_SECONDS, registry=to
        )

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def computed(self, examples: Sequence[Example], seconds: float) -> None:
        """A batch was computed."""
        lengths = [len(example.input_ids) for example in examples]
        self._batch.observe(len(examples))
        self._tasks.observe(len({example.task_id for example in examples}))
        self._tokens.observe(sum(lengths))
        self._padding.inc(len(lengths) * max(lengths) - sum(lengths))
        self._computing.observe(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus's format."""
        return generate_latest(self.registry)
