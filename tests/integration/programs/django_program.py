"""A program on Django's ORM: it migrates, sells, counts, and gives its connections back."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import django
import pytest
from django.conf import settings

sys.path.insert(0, str(Path(__file__).parent))
settings.configure(
    INSTALLED_APPS=["django.contrib.postgres", "shop"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": os.environ["PGDATABASE"],
            "HOST": os.environ["PGHOST"],
            "PORT": os.environ["PGPORT"],
            "USER": os.environ["PGUSER"],
            "PASSWORD": os.environ["PGPASSWORD"],
            "CONN_MAX_AGE": int(os.environ["MAX_AGE_S"]),
            "CONN_HEALTH_CHECKS": True,
            "OPTIONS": {"options": f"-c search_path={os.environ['SCHEMA']}"},
        }
    },
)
django.setup()

from django.core.management import call_command  # noqa: E402 - they need the settings
from django.db import IntegrityError, close_old_connections, connection, transaction  # noqa: E402
from django.db.models import F, Sum  # noqa: E402
from shop.models import Order, Product  # noqa: E402


def request(number: int) -> None:
    """Sell something, as a request of a web server does it."""
    close_old_connections()
    with transaction.atomic():
        product = Product.objects.select_for_update().get(name=f"product {number % 5}")
        product.stock -= 1
        product.save(update_fields=["stock"])
        Order.objects.create(product=product, amount=1)
    close_old_connections()


def oversell() -> None:
    """Fail within a transaction; what was outside of the savepoint stays."""
    with transaction.atomic():
        Product.objects.create(name="last", stock=1)
        with pytest.raises(IntegrityError), transaction.atomic():
            Product.objects.filter(name="last").update(stock=F("stock") - 2)
    assert Product.objects.get(name="last").stock == 1


call_command("migrate", verbosity=0, interactive=False)
call_command("migrate", "shop", "0001", verbosity=0)
call_command("migrate", verbosity=0, interactive=False)
with ThreadPoolExecutor(6) as threads:
    list(threads.map(request, range(100)))
    list(threads.map(lambda _: connection.close(), range(6)))
assert Order.objects.aggregate(Sum("amount")) == {"amount__sum": 100}
oversell()
seen = [product.pk for product in Product.objects.order_by("pk").iterator(chunk_size=50)]
assert len(set(seen)) == 501, len(seen)
Product.objects.filter(name="product 7").update(details={"colour": "red"})
assert Product.objects.get(details__colour="red").name == "product 7"
with transaction.atomic():
    held = list(Product.objects.select_for_update(skip_locked=True).filter(stock=100)[:10])
    assert len(held) == 10
    transaction.set_rollback(True)
Order.objects.filter(amount=1).delete()
assert not Order.objects.exists()
close_old_connections()
connection.close()
print("all done")  # noqa: T201
