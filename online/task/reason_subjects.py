"""What the features of a task are of, for those who put them into words."""

from __future__ import annotations

from collections.abc import Iterable

from weir.online.decisions.feature_name import Subject
from weir.online.decisions.operations import Of
from weir.online.features.spec import Aggregate, Entity


def subjects_of(entities: Iterable[Entity]) -> dict[str, Subject]:
    """What each aggregate and detector is of, by ``<entity>.<name>``.

    >>> seen = {"name": "seen", "ops": ["count"], "windows": ["1d"], "where": "amount > 5"}
    >>> subjects_of([Entity.model_validate({"name": "user", "key": "user_id", "aggregates": [seen]})])
    {'user.seen': Subject(of='events', value=None, chosen=True)}
    """
    found: dict[str, Subject] = {}
    for entity in entities:
        for a in entity.windowed:
            of: Of = "events" if isinstance(a, Aggregate) else "labels"
            found[f"{entity.name}.{a.name}"] = Subject(of, a.value, a.where is not None)
        found |= {f"{entity.name}.{a.name}": Subject("anomaly", a.value) for a in entity.anomalies}
    return found
