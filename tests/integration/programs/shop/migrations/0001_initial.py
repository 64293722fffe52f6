"""The tables, without the index that came later."""

import django.db.models.deletion
from django.db import migrations, models

ID = models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")
PRODUCT = models.ForeignKey(
    on_delete=django.db.models.deletion.PROTECT, related_name="orders", to="shop.product"
)


class Migration(migrations.Migration):
    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            "Product",
            [
                ("id", ID),
                ("name", models.CharField(max_length=100, unique=True)),
                ("stock", models.PositiveIntegerField(default=0)),
                ("details", models.JSONField(default=dict)),
            ],
        ),
        migrations.CreateModel(
            "Order",
            [
                ("id", ID.clone()),
                ("amount", models.IntegerField()),
                ("at", models.DateTimeField(auto_now_add=True)),
                ("product", PRODUCT),
            ],
        ),
    )
