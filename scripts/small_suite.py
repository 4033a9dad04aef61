"""A suite of benchmarks and the paper that it is compared with, as files of content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def suite_files(
    name: str,
    members: Mapping[str, tuple[str, str]],
    ood: Mapping[str, str],
    method: str,
    aurocs: Mapping[tuple[str, str], float],
) -> dict[str, str]:
    """File -> text, of a folder of content that has the benchmarks.

    Args:
        name: of the suite.
        members: benchmark -> network and ID set, as the paper calls them.
        ood: OOD set -> as the paper calls it.
        method: the one that has a column, "MSP".
        aurocs: benchmark and OOD set -> published AUROC in percent.
    """
    table = {"title": "A table", "measures": ["auroc"], "about": "detection", "published": "one"}
    suite: dict[str, Any] = {
        "schema_version": 1,
        "name": name,
        "version": 1,
        "title": name,
        "summary": "For tests",
        "members": {each: {"network": net, "id": data} for each, (net, data) in members.items()},
        "ood": dict(ood),
        "published": "paper",
        "tables": {"one": {**table, "columns": {"MSP": method}}},
    }
    rows = [
        {
            "network": members[member][0],
            "id": members[member][1],
            "ood": ood[ood_set],
            "values": {"auroc": [value]},
        }
        for (member, ood_set), value in aurocs.items()
    ]
    paper: dict[str, Any] = {
        "schema_version": 1,
        "name": "paper",
        "title": "A paper",
        "sources": {"paper": {"citation": "A. Author. 2020.", "url": "https://example.org"}},
        "tables": {
            "one": {
                "source": "paper",
                "place": "Table 1",
                "title": "A table",
                "columns": ["MSP"],
                "measures": {"auroc": {"unit": "percent", "decimals": 1}},
                "rows": rows,
            }
        },
    }
    contents = {f"benchmarks/{name}.yaml": suite, "benchmarks/published/paper.yaml": paper}
    return {file: json.dumps(content, indent=1) for file, content in contents.items()}
