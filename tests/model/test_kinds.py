"""Tasks of several kinds in one model: mixed in one batch, alone, merged, exported, added, saved and loaded."""

import pytest
import torch
from helpers.tiny import VOCABULARY, make, randomise
from torch._dynamo.testing import CompileCounter

from hyperloader import HyperLoaderConfig, HyperLoaderModel, TaskModel

LABELS = {"slots": ["O", "B-x", "I-x"], "intent": ["a", "b", "c", "d"], "topics": ["p", "q"], "similar": ["value"]}
KINDS = {"slots": "tagging", "intent": "classification", "topics": "multi-label", "similar": "regression"}
TASK_IDS = torch.tensor([1, 0, 3, 2, 1, 3])
SENTENCES = {task: (number == TASK_IDS).nonzero()[:, 0].tolist() for number, task in enumerate(LABELS)}


def config(**options):
    sizes = {"reduction_factor": 4, "rank": 2, "units": {"similar": (2.5, 1.5)}}
    return HyperLoaderConfig(tasks=list(LABELS), labels=LABELS, kinds=KINDS, **sizes | options)


@pytest.fixture(params=["bert", "distilbert", "t5-encoder"])
def model(request):
    model = HyperLoaderModel(make(request.param, torch.float64), config()).to(torch.float64).eval()
    randomise(model)
    return model


@pytest.fixture
def bert():
    model = HyperLoaderModel(make("bert", torch.float64), config()).to(torch.float64).eval()
    randomise(model)
    return model


def batch():
    """Six sentences of 3 to 8 tokens."""
    lengths = torch.tensor([8, 5, 3, 7, 4, 6])
    ids = torch.randint(2, VOCABULARY, (6, 8), generator=torch.Generator().manual_seed(0))
    labels, targets = torch.full((6, 8), -100), torch.full((6, 2), torch.nan, dtype=torch.float64)
    labels[1, :5], labels[0, 0], labels[4, 0] = torch.tensor([0, 1, 2, 0, 1]), 3, 0
    targets[2, 0], targets[5, 0], targets[3] = 0.5, -2.0, torch.tensor([1.0, 0.0])
    mask = (torch.arange(8) < lengths[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels, "targets": targets}


def inputs_of(row: int) -> dict:
    """One sentence without padding."""
    whole = batch()
    length = int(whole["attention_mask"][row].sum())
    return {"input_ids": whole["input_ids"][row : row + 1, :length]}


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@torch.no_grad()
def test_a_mixed_batch_is_the_sentences_one_by_one(model):
    logits = model(**batch(), task_ids=TASK_IDS).logits
    for row, number in enumerate(TASK_IDS.tolist()):
        task, inputs = list(LABELS)[number], inputs_of(row)
        alone = model(**inputs, task=task).logits[0]
        close(logits[row, : len(alone), : len(LABELS[task])], alone)
        if KINDS[task] != "tagging":
            close(alone, alone[:1].expand_as(alone))


@torch.no_grad()
def test_a_sentence_is_read_as_the_mean_over_its_real_tokens(bert):
    """By hand from what the backbone computes: the head of the task on the mean of five tokens of eight."""
    seen = []
    hook = bert.backbone.register_forward_hook(lambda module, args, output: seen.append(output.last_hidden_state))
    logits = bert(**batch(), task_ids=TASK_IDS).logits
    hook.remove()
    for row, number in ((0, 1), (2, 3), (3, 2)):
        length = int(batch()["attention_mask"][row].sum())
        expected = bert.heads.heads[number](seen[0][row, :length].mean(0))
        close(logits[row, 0, : len(expected)], expected)
        assert (logits[row, :, len(expected) :] == -torch.inf).all()


def test_the_loss_of_a_batch_weighs_each_task_by_its_sentences(model):
    whole = batch()
    found = model(**whole, task_ids=TASK_IDS).loss
    parts = []
    for task, rows in SENTENCES.items():
        own = {name: tensor[rows] for name, tensor in whole.items()}
        if task in ("slots", "intent"):
            del own["targets"]
        else:
            own["targets"] = own["targets"][:, : len(LABELS[task])]
        parts.append(model(**own, task=task).loss * len(rows) / 6)
    close(found, sum(parts))
    found.backward()
    assert all(head.weight.grad.any() for head in model.heads.heads)


def test_a_model_of_tagging_alone_is_what_it_was():
    torch.manual_seed(0)
    sizes = {"tasks": ["slots"], "labels": {"slots": LABELS["slots"]}, "reduction_factor": 4, "rank": 2}
    plain = HyperLoaderModel(make("bert"), HyperLoaderConfig(**sizes)).eval()
    named = HyperLoaderConfig(**sizes, kinds={"slots": "tagging"})
    assert named == plain.hyperloader_config
    assert not plain.heads.of_sentences


@torch.no_grad()
@pytest.mark.parametrize("task", list(LABELS))
def test_merged_exported_and_loaded_it_computes_the_same(bert, task, tmp_path):
    rows = SENTENCES[task]
    own = {name: batch()[name][rows] for name in ("input_ids", "attention_mask")}
    expected = bert(**own, task=task).logits
    merged = bert.merge(task)
    close(merged(**own).logits, expected)
    merged.save_pretrained(tmp_path / "merged")
    again = TaskModel.from_pretrained(tmp_path / "merged")
    close(again(**own).logits, expected)
    assert again.hyperloader_config.kind_of(task) == KINDS[task]
    assert again.hyperloader_config.units == ({"similar": (2.5, 1.5)} if task == "similar" else None)
    bert.export_task(task, tmp_path / "task")
    alone = HyperLoaderModel.from_pretrained(tmp_path / "task", make("bert", torch.float64)).to(torch.float64)
    torch.testing.assert_close(alone(**own, task=task).logits, expected)
    bert.save_pretrained(tmp_path / "all")
    loaded = HyperLoaderModel.from_pretrained(tmp_path / "all", make("bert", torch.float64)).to(torch.float64)
    assert loaded.hyperloader_config == bert.hyperloader_config
    torch.testing.assert_close(loaded(**own, task=task).logits, expected)


@pytest.mark.parametrize(
    ("kind", "labels", "units"),
    [("regression", ["value"], (1.0, 2.0)), ("classification", ["x", "y", "z"], None), ("tagging", ["O"], None)],
)
def test_a_task_of_any_kind_is_added(bert, kind, labels, units, tmp_path):
    before = bert(**batch(), task_ids=TASK_IDS).logits
    number = bert.add_task("new", labels=labels, kind=kind, units=units)
    close(bert(**batch(), task_ids=TASK_IDS).logits, before)
    assert (bert.hyperloader_config.kind_of("new"), bert.heads.kinds[number]) == (kind, kind)
    own = {name: batch()[name] for name in ("input_ids", "attention_mask")}
    logits = bert(**own, task="new").logits
    assert torch.allclose(logits, logits[:, :1].expand_as(logits)) == (kind != "tagging")
    bert.freeze_except_task_embedding("new")
    bert.save_pretrained(tmp_path)
    loaded = HyperLoaderModel.from_pretrained(tmp_path, make("bert", torch.float64))
    assert loaded.hyperloader_config == bert.hyperloader_config
    assert (loaded.hyperloader_config.units or {}).get("new") == units


def test_a_task_that_does_not_fit_leaves_the_model_as_it_was(bert):
    before = bert.hyperloader_config
    for options, message in (
        ({"labels": ["O"], "kind": "chat"}, r"kinds\['new'\] must be one of tagging, classification"),
        ({"labels": ["a", "b"], "kind": "regression"}, r"labels\['new'\] must be one for a regression, got 2"),
        ({"labels": ["a", "b"], "units": (0, 1)}, "units must name regressions alone, got 'new'"),
        ({"labels": ["v"], "kind": "regression", "units": (0, 0.0)}, "must be positive and finite, got 0.0"),
        ({"labels": ["v"], "kind": "regression", "units": (float("nan"), 1)}, "must have a finite mean"),
    ):
        with pytest.raises(ValueError, match=message):
            bert.add_task("new", **options)
    assert bert.hyperloader_config is before and len(bert.heads.heads) == 4


def test_labels_and_targets_that_do_not_fit_are_refused(bert):
    whole = batch()
    for changes, kind, message in (
        ({"labels": whole["labels"].clamp(min=0)}, ValueError, "labels must be -100 where the task is a regression"),
        ({"targets": torch.zeros(6, 2)}, ValueError, "targets must be NaN but for the number of a regression"),
        ({"targets": torch.zeros(6).long()}, TypeError, "targets must be a tensor of floats of shape"),
        ({"targets": whole["targets"][:2]}, ValueError, r"targets must be one row a sentence \(6\), got 2"),
        ({"labels": None}, ValueError, "labels must be given with targets"),
        (
            {"attention_mask": torch.zeros(6, 1, 8, 8, dtype=torch.float64)},
            ValueError,
            r"attention_mask must have shape \(6, 8\)",
        ),
    ):
        with pytest.raises(kind, match=message):
            bert(**whole | changes, task_ids=TASK_IDS)


def test_one_graph_serves_every_kind(bert):
    torch._dynamo.reset()
    counter, whole = CompileCounter(), batch()
    own = {name: whole[name] for name in ("input_ids", "attention_mask")}
    expected = {task: bert(**own, task=task).logits for task in LABELS}
    compiled = torch.compile(bert, fullgraph=True, backend=counter)
    for task in LABELS:
        close(compiled(**own, task=task).logits, expected[task])
    assert counter.frame_count == 1
    compiled = torch.compile(bert, fullgraph=True, backend="aot_eager")
    close(compiled(**whole, task_ids=TASK_IDS).loss, bert(**whole, task_ids=TASK_IDS).loss)
