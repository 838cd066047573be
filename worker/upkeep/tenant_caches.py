"""Remove what earlier jobs of a tenant have left in this machine's cache, once the tenant is gone."""

import shutil

from sqlalchemy.orm import Session, sessionmaker

from jobs.database import transaction
from jobs.repository import RemovalRepository
from jobs.settings import Settings
from worker.workspace import tenant_caches


def remove_departed_caches(settings: Settings, sessions: sessionmaker[Session]) -> None:
    """Remove the caches of tenants that are not in the database. They only ever save time."""
    caches = tenant_caches(settings)
    names = [cache.name for cache in caches.iterdir()] if caches.is_dir() else []
    if not names:
        return
    with transaction(sessions) as session:
        departed = RemovalRepository(session).departed(names)
    for name in departed:
        shutil.rmtree(caches / name, ignore_errors=True)
