"""Loads and unloads a variant again and again; prints by how many bytes the process grew.

    python load_unload.py POLICIES POLICY VARIANT CYCLES LEAK

LEAK bytes are kept in each cycle on purpose: whoever measures must find them.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import httpx

from slimq_service.app import create_app
from slimq_service.server.logs import configure_logs
from slimq_service.settings import Settings
from slimq_service.variants.loading import resident_bytes

SETTLING_CYCLES = 30
"""After which allocator and caches have what they need."""


async def main(root: str, policy: str, variant: str, cycles: int, leak: int) -> None:
    configure_logs(logging.WARNING)
    app = create_app(Settings(policies=Path(root), watch_seconds=3600)).routes
    path = f"/v2/repository/models/{policy}"
    body = {"parameters": {"variants": [variant]}}
    kept: list[bytes] = []
    sizes: list[int] = []
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for cycle in range(SETTLING_CYCLES + cycles):
                for action in ("load", "unload"):
                    answer = await client.post(f"{path}/{action}", json=body)
                    answer.raise_for_status()
                if cycle >= SETTLING_CYCLES:
                    kept.append(b"x" * leak)
                    sizes.append(resident_bytes())
    tenth = max(1, cycles // 10)
    first, last = sorted(sizes[:tenth]), sorted(sizes[-tenth:])
    sys.stdout.write(str(last[len(last) // 2] - first[len(first) // 2]))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4], *map(int, sys.argv[4:])))
