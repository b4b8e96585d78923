"""Generates the provisioned dashboards' JSON from the code in this folder.

Run it after a change: `python docker/grafana/make_dashboards.py`.
"""

from __future__ import annotations

from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

import service_health
import variants_compared

FOLDER = Path(__file__).parent / "dashboards"


def dashboards() -> dict[str, str]:
    """The content of every file, by file name."""
    encoder = JSONEncoder(sort_keys=True, indent=2, ensure_ascii=False)
    builders = {
        "variants-compared.json": variants_compared.build,
        "service-health.json": service_health.build,
    }
    made = {}
    for name, build in builders.items():
        dashboard = build().build()
        for number, panel in enumerate(dashboard.panels or [], start=1):
            panel.id_val = number
        made[name] = encoder.encode(dashboard) + "\n"
    return made


def main() -> None:
    """Writes the files."""
    FOLDER.mkdir(exist_ok=True)
    for name, content in dashboards().items():
        (FOLDER / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
