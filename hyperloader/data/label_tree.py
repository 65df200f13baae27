"""Labels as the text that a model writes, and how probable it finds each of them."""

import math
from collections.abc import Callable, Sequence

from torch import Tensor

_NEGLIGIBLE = math.log(1e-6)  # what is less probable is not looked at further


class LabelTree:
    """The labels ``names``, each a sequence of token ids that no other begins with, as a tree.

    ``beginning``: the tokens that all share. ``width``: how many different beginnings of one length there are at most.
    ``longest``: the tokens of the longest label.

    Raises:
        ValueError: labels that are the same in their tokens, or one that begins with another.
    """

    def __init__(self, names: Sequence[str], labels: Sequence[Sequence[int]]) -> None:
        self.children: list[dict[int, int]] = [{}]
        self.label: dict[int, int] = {}  # of the leaves
        by_depth: dict[int, int] = {}
        for number, ids in enumerate(labels):
            node = 0
            for depth, token in enumerate(ids):
                if node in self.label:
                    break
                if token not in self.children[node]:
                    self.children[node][token] = len(self.children)
                    self.children.append({})
                    by_depth[depth] = by_depth.get(depth, 0) + 1
                node = self.children[node][token]
            if node in self.label or self.children[node]:
                while node not in self.label:
                    node = next(iter(self.children[node].values()))
                raise ValueError(
                    f"labels must differ in their tokens, got {names[self.label[node]]!r} and {names[number]!r}, which "
                    "the model's tokenizer cannot tell apart; rename one of them in the data"
                )
            self.label[node] = number
        self.width, self.longest = max(by_depth.values()), len(by_depth)
        self.root, self.beginning = 0, list[int]()
        while len(self.children[self.root]) == 1 and self.root not in self.label:
            ((token, node),) = self.children[self.root].items()
            if node in self.label:
                break
            self.beginning.append(token)
            self.root = node


def label_probabilities(
    trees: Sequence[LabelTree], logits: Tensor, go_on: Callable[[list[int], list[int]], Tensor]
) -> list[list[float]]:
    """Of every sentence the probabilities of all labels, which sum to 1.

    That of a label is the product over its tokens of the probability of each among those that can stand there in some
    label. Where the beginning of a label is less probable than a millionth, the label's is 0.

    Args:
        trees: of every sentence, its task's.
        logits: (sentences, vocabulary), of what follows a tree's ``beginning``.
        go_on: the row that each new row goes on from, and its next token, to the logits (new rows, vocabulary).
    """
    found = [[0.0] * len(tree.label) for tree in trees]
    rows = [(number, tree.root, 0.0) for number, tree in enumerate(trees)]
    while True:
        parents, tokens, longer = list[int](), list[int](), list[tuple[int, int, float]]()
        for row, (sentence, node, before) in enumerate(rows):
            tree = trees[sentence]
            choices = tree.children[node]
            logs = logits[row, list(choices)].double().log_softmax(-1).tolist()
            for (token, child), log in zip(choices.items(), logs, strict=True):
                if child in tree.label:
                    found[sentence][tree.label[child]] = math.exp(before + log)
                elif before + log > _NEGLIGIBLE:
                    longer.append((sentence, child, before + log))
                    parents.append(row)
                    tokens.append(token)
        if not longer:
            return found
        rows, logits = longer, go_on(parents, tokens)
