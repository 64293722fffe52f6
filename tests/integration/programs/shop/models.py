"""What the shop sells."""

from django.db import models


class Product(models.Model):
    name = models.CharField(max_length=100, unique=True)
    stock = models.PositiveIntegerField(default=0)
    details = models.JSONField(default=dict)


class Order(models.Model):
    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="orders")
    amount = models.IntegerField()
    at = models.DateTimeField(auto_now_add=True)
