"""Data, and an index that is built outside of a transaction."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


def fill(apps, _editor):
    product = apps.get_model("shop", "Product")
    product.objects.bulk_create(product(name=f"product {i}", stock=100) for i in range(500))


def empty(apps, _editor):
    apps.get_model("shop", "Product").objects.all().delete()


class Migration(migrations.Migration):
    atomic = False
    dependencies = (("shop", "0001_initial"),)
    operations = (
        migrations.RunPython(fill, empty),
        AddIndexConcurrently("product", models.Index(fields=["stock"], name="by_stock")),
    )
