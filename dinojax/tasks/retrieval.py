"""Instance retrieval: test records ask for training records by the cosine of their CLS."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dinojax.evaluation.retrieval import class_precision, order, revisited_scores
from dinojax.tasks.global_rows import global_rows, labelled_rows
from dinojax.tasks.task import Evaluation, Score, Task


@dataclass(frozen=True)
class RetrievalProtocol:
    """Where queries are judged, the scores of the revisited benchmarks, by level. Otherwise records
    of the query's class are to be found: mean average precision, and the share of queries that have
    one among the first k (recall@k)."""

    ks: tuple[int, ...] = (1, 5, 10)


def _run(protocol: RetrievalProtocol, evaluation: Evaluation) -> Iterator[Score]:
    if evaluation.records.judged is not None:
        yield from _judged(protocol, evaluation)
        return
    bank, queries = (labelled_rows(evaluation, part) for part in ("train", "test"))
    precision, first = class_precision(bank.cls, bank.labels, queries.cls, queries.labels)
    yield Score("map", float(np.asarray(precision, np.float64).mean()))
    for k in protocol.ks:
        yield Score(f"recall{k}", float((np.asarray(first) < k).mean()))


def _judged(protocol: RetrievalProtocol, evaluation: Evaluation) -> Iterator[Score]:
    judged = evaluation.records.judged
    assert judged is not None
    bank, queries = (global_rows(evaluation, part) for part in ("train", "test"))
    ranking = bank.places[np.asarray(order(bank.column("cls", -1), queries.column("cls", -1)))]
    asked = [judged[place] for place in queries.places]
    for name, value in revisited_scores(ranking, asked, protocol.ks).items():
        yield Score(name, value)


RETRIEVAL = Task(RetrievalProtocol, frozenset({"labels_or_judgements"}), _run)
