"""The component ``hyperloader`` of spaCy: every document is asked by tasks of a run, all of them in mixed batches."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.util import minibatch, raise_error

from hyperloader.config import CLASSIFICATION, MULTI_LABEL, TAGGING
from hyperloader.data.bio import spans
from hyperloader.data.kinds import Kind
from hyperloader.serving.tagger import Tagger
from hyperloader.validation import check_choice, listed

_KINDS = (TAGGING, CLASSIFICATION, MULTI_LABEL)


@Language.factory(
    "hyperloader",
    assigns=["doc.ents", "doc.spans", "doc.cats"],
    default_config={"tasks": None, "revision": None},
)
def make_component(
    nlp: Language, name: str, run: str, tasks: str | list[str] | None, revision: str | None
) -> "HyperLoaderComponent":
    """``nlp.add_pipe("hyperloader", config={"run": ...})``: see ``HyperLoaderComponent``.

    Args:
        run: the output folder of a training, or ``owner/name`` on the Hugging Face Hub, at ``revision``.
        tasks: names of those to ask; None for all of the run's that tag words or label a single text.
    """
    one = tasks if isinstance(tasks, str) else None
    return HyperLoaderComponent(Tagger.from_pretrained(run, task=one, revision=revision), [one] if one else tasks, name)


class HyperLoaderComponent:
    """Fills ``doc.ents`` with the spans of a tagging task, ``doc.spans[task]`` with those of each of several, and
    ``doc.cats`` with the scores of labels, under ``task: label`` where several tasks label texts.

    A group of ``doc.spans`` has the spans' scores in ``attrs["scores"]``, where the model gives any. The documents'
    tokens are the words that are tagged; white space is no word.

    Raises:
        ValueError: an unknown task, or one of pairs, of values or of texts to be written.
    """

    def __init__(self, tagger: Tagger, tasks: Sequence[str] | None = None, name: str = "hyperloader") -> None:
        if tasks is not None and not tasks:
            raise ValueError("tasks must name at least one task, or be None for all that have a place, got []")
        self.tagger, self.name = tagger, name
        self._failed: Callable[..., Any] = raise_error
        kinds = {task: tagger.run.kinds.get(task, Kind()) for task in tagger.tasks}
        fit = [task for task, kind in kinds.items() if kind.name in _KINDS and not kind.pair]
        for task in tasks or ():
            check_choice("task", task, tagger.tasks, "tasks")
            if task not in fit:
                what = "of pairs" if kinds[task].pair else f"a {kinds[task].name}"
                raise ValueError(f"task must tag words or label a text to have a place in a Doc, got {task!r}, {what}")
        self.tasks = list(tasks or fit)
        if not self.tasks:
            raise ValueError(f"the run must have a task that tags words or labels a text, has {listed(kinds, 'tasks')}")
        self.tagging = [task for task in self.tasks if kinds[task].name == TAGGING]

    def __call__(self, doc: Doc) -> Doc:
        """Answer one document."""
        self._answer([doc])
        return doc

    def set_error_handler(self, error_handler: Callable[..., Any]) -> None:
        """What ``pipe`` calls with name, component, documents and error for documents that fail."""
        self._failed = error_handler

    def get_error_handler(self) -> Callable[..., Any]:
        """What ``set_error_handler`` was given; without it the error is raised."""
        return self._failed

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 256) -> Iterator[Doc]:
        """Answer documents, ``batch_size`` at a time, which are sorted into batches of similar length."""
        for docs in minibatch(stream, size=batch_size):
            try:
                self._answer(docs)
            except Exception as error:
                self._failed(self.name, self, docs, error)
                continue
            yield from docs

    def _answer(self, docs: Sequence[Doc]) -> None:
        words = [[token for token in doc if not token.is_space] for doc in docs]
        asked = [{"tokens": [token.text for token in some]} for some in words if some]
        answers = iter(self.tagger(asked, task=self.tasks))
        for doc, some in zip(docs, words, strict=True):
            if some:
                self._write(doc, [token.i for token in some], next(answers))

    def _write(self, doc: Doc, places: Sequence[int], answers: dict[str, dict]) -> None:
        labelling = len(self.tasks) - len(self.tagging)
        for task, found in answers.items():
            if task not in self.tagging:
                named = {label if labelling == 1 else f"{task}: {label}": one for label, one in found["scores"].items()}
                doc.cats.update(named)
                continue
            marked = [Span(doc, places[at], places[after - 1] + 1, label) for label, at, after in spans(found["tags"])]
            if len(self.tagging) == 1:
                doc.set_ents(marked)
            else:
                doc.spans[task] = marked
                doc.spans[task].attrs["scores"] = [one.get("score") for one in found["spans"]]
